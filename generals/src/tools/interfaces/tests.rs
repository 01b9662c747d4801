use super::*;

fn names(path: &str, text: &str) -> Vec<String> {
    Language::of(path, text).unwrap().items(text, true).into_keys().collect()
}

fn signature(path: &str, text: &str, name: &str) -> String {
    Language::of(path, text).unwrap().items(text, true)[name].signature.clone()
}

#[test]
fn rust_offers_what_is_public() {
    let text = "\
//! pub fn not_this() {}
pub mod a;
pub use b::{C, d::E as F};
pub(crate) fn hidden() {}
fn own() { pub_like(); }
pub struct S<T> { pub x: u32, y: u32 }
pub struct Long {
    pub name: String,
    hidden: u8,
}
pub enum Kind {
    One,
    Two { a: u32 },
    Three(String),
}
impl<T: Into<U>> S<T> {
    pub fn new(
        x: u32,
    ) -> S<T> {
        let s = \"}\";
        pub_like()
    }
    fn private(&self) {}
    pub const MAX: usize = 4;
}
impl Clone for Long {
    fn clone(&self) -> Long { todo() }
}
pub trait Shape {
    fn area(&self) -> f64;
    fn twice(&self) -> f64 {
        2.0
    }
}
pub async unsafe fn run<'a>(text: &'a str) -> bool
where
    Self: Sized,
{
    true
}
pub const X: u32 = 1;
#[cfg(test)]
mod tests {
    pub fn helper() {}
}
pub fn last() {}
";
    let expected = [
        "C", "F", "Kind", "Kind::One", "Kind::Three", "Kind::Two", "Long", "Long::name", "S", "S::MAX", "S::new", "Shape",
        "Shape::area", "Shape::twice", "X", "a", "last", "run",
    ];
    assert_eq!(names("src/lib.rs", text), expected);
    assert_eq!(signature("a.rs", text, "S::new"), "pub fn new(x: u32) -> S<T>");
    assert_eq!(signature("a.rs", text, "run"), "pub async unsafe fn run<'a>(text: &'a str) -> bool where Self: Sized,");
    assert_eq!(signature("a.rs", text, "X"), "pub const X: u32");
}

#[test]
fn scripts_offer_what_they_export() {
    let text = "\
import x from 'y';
export function f(a: string, b = 1): void { g('}'); }
export async function* h() {}
export const add = (a: number, b: number) => a + b;
export let plain = 7;
export default class Main {
  constructor(private x: number) {}
  run(a: string): void {}
  private hidden() {}
  #secret = 1;
}
export interface Shape {
  area(): number;
  readonly name?: string;
}
export enum Kind { }
export type Id = string | number;
export { a, b as c } from './z';
export * from './w';
function own() {}
";
    let expected = [
        "Id", "Kind", "Shape", "Shape.area", "Shape.name", "a", "add", "c", "default", "default.constructor", "default.run",
        "export * from './w'", "f", "h", "plain",
    ];
    assert_eq!(names("a.ts", text), expected);
    assert_eq!(signature("a.ts", text, "f"), "export function f(a: string, b = 1): void");
    assert_eq!(signature("a.ts", text, "add"), "export const add = (a: number, b: number)");
    let common = "module.exports = {\n  one,\n  two: 2,\n};\nexports.three = 3;\nmodule.exports.four = 4;\n";
    assert_eq!(names("a.js", common), ["four", "one", "three", "two"]);
}

#[test]
fn python_offers_what_has_no_underscore() {
    let text = "\
\"\"\"
def not_this(): pass
\"\"\"
class A(B):
    def __init__(self, x: int = 1):
        def inner(): pass
    async def go(self,
                 y='):'):
        pass
    def _hidden(self): pass
def f(a, *, b) -> int:
    return 1
def _own(): pass
class _C: pass
if True:
    def later(): pass
";
    assert_eq!(names("a.py", text), ["A", "A.__init__", "A.go", "f"]);
    assert_eq!(signature("a.py", text, "f"), "def f(a, *, b) -> int");
}

#[test]
fn go_offers_what_has_a_capital() {
    let text = "\
package x
const (
\tA = 1
\tb = 2
)
type T struct {
\tName string `json:\"name\"`
\thidden int
}
type I interface {
\tDo(x int) error
}
type own struct { X int }
func F(a int, b string) (T, error) {
\treturn T{}, nil
}
func (t *T) M() {}
func (o own) N() {}
func g() {}
var V = 3
";
    assert_eq!(names("x/a.go", text), ["A", "F", "I", "I.Do", "T", "T.M", "T.Name", "V"]);
    assert_eq!(signature("a.go", text, "F"), "func F(a int, b string) (T, error)");
    assert!(names("a.go", "package main\nfunc F() {}\n").is_empty());
}

#[test]
fn java_offers_what_is_public() {
    let text = "\
package x;
public class A extends B
{
    public static final int MAX = 3;
    private int y;
    public A(int y) { this.y = y; }
    protected void run(String s,
        int n) throws E {
        if (x) { }
    }
    void own() {}
    public interface I {
        int f(int a);
    }
}
class Hidden {
    public void g() { }
}
class Short { public void h() {} }
";
    let all = names("A.java", text);
    for name in ["A", "A.A", "A.I", "A.I.f", "A.MAX", "A.run"] {
        assert!(all.contains(&name.to_owned()), "{name} not in {all:?}");
    }
    assert!(!all.iter().any(|name| name.contains("own") || name.contains("Hidden") || name.contains("Short") || name == "A.y"), "{all:?}");
    assert_eq!(signature("A.java", text, "A.run"), "protected void run(String s, int n) throws E");
}

#[test]
fn descriptions_of_interfaces_are_read() {
    let text = "\
syntax = \"proto3\";
package p;
message M {
  // comment = 9;
  string name = 1;
  repeated Other others = 2 [deprecated = true];
  oneof kind { int32 a = 3; }
  message Inner { map<string, int32> m = 1; }
  reserved 4;
}
enum E { ZERO = 0; }
service S {
  rpc Get (Req) returns (stream Res);
}
";
    let all = names("a.proto", text);
    for name in ["E", "M", "M.Inner", "M.name", "M.others", "S", "S.Get"] {
        assert!(all.contains(&name.to_owned()), "{name} not in {all:?}");
    }
    assert_eq!(signature("a.proto", text, "M.others"), "repeated Other = 2");
    let yaml = "\
openapi: 3.0.0
paths:
  /users/{id}:
    parameters:
      - {name: id, in: path, required: true, schema: {type: string}}
    get:
      responses:
        '200': {description: ok}
components:
  schemas:
    User:
      type: object
      required: [name]
      properties:
        name: {type: string}
        tags: {type: array, items: {$ref: '#/components/schemas/Tag'}}
";
    let expected = ["GET /users/{id}", "GET /users/{id} answer 200", "GET /users/{id} parameter id", "User", "User.name", "User.tags"];
    assert_eq!(names("api.yaml", yaml), expected);
    assert_eq!(signature("api.yaml", yaml, "User.name"), "required string");
    assert_eq!(signature("api.yaml", yaml, "User.tags"), "optional array of Tag");
    assert_eq!(Language::of("a.yaml", "a: 1\n"), None);
    assert_eq!(Language::of("a.json", "{\n  \"openapi\": \"3.1.0\"}"), Some(Language::OpenApi));
}

#[test]
fn noise_is_survived() {
    let pieces = [
        "pub ", "fn ", "struct ", "enum X", "{", "}", "(", ")", "\n", ";", "impl<", "export ", "class A", "def f(", "\"\"\"", "type T", "'",
        "\"", "/*", "*/", "message M", "= 1", "é", "func (", "public int x(", "paths:", " ", ",", "=>", "module.exports = {", "use ",
    ];
    let paths = ["a.rs", "a.ts", "a.py", "a.go", "A.java", "a.proto"];
    let mut seed = 3u64;
    for round in 0..12_000 {
        let mut text = String::new();
        for _ in 0..25 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            text.push_str(pieces[(seed >> 33) as usize % pieces.len()]);
        }
        Language::of(paths[round % paths.len()], &text).unwrap().items(&text, false);
        openapi::items(&format!("openapi: 3\n{text}"));
    }
}
