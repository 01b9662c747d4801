use super::*;

fn read(path: &str, text: &str) -> Vec<(String, String)> {
    let kind = Kind::of(path).unwrap();
    kind.read(text, true).into_iter().map(|(name, needed)| (name, needed.version)).collect()
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(name, version)| ((*name).to_owned(), (*version).to_owned())).collect()
}

#[test]
fn cargo_manifests_are_read_in_all_their_forms() {
    let text = "[package]\nname = \"x\"\nversion = \"1.0\"\n[dependencies]\na = \"1\" # why\nb = { version = \"2\", features = [\"x\"] }\n\
                c.workspace = true\nd = { git = \"https://x/y\" }\ne = { path = \"../e\" }\n[dependencies.f]\nversion = \"3\"\n\
                [target.'cfg(unix)'.dev-dependencies]\ng = \"0.4\"\n[features]\nh = [\"a\"]\n[profile.release]\nlto = \"thin\"\n";
    let expected = [("a", "1"), ("b", "2"), ("c", "of the workspace"), ("d", "git https://x/y"), ("e", "path ../e"), ("f", "3"), ("g", "0.4")];
    assert_eq!(read("Cargo.toml", text), pairs(&expected));
    let part = Kind::Cargo.read("version = \"2.0\"\nserde = \"1\"\nedition = \"2021\"\nserde_json = { version = \"1\" }\n", false);
    assert_eq!(part.keys().collect::<Vec<_>>(), ["serde", "serde_json"]);
    assert!(Kind::Cargo.read("d = { git = \"u\" }", false)["d"].foreign);
    let lock = "[[package]]\nname = \"a\"\nversion = \"1.0.0\"\n\n[[package]]\nname = \"a\"\nversion = \"2.0.0\"\ndependencies = [\n \"b\",\n]\n";
    assert_eq!(read("Cargo.lock", lock), pairs(&[("a", "1.0.0, 2.0.0")]));
}

#[test]
fn npm_manifests_are_read_whole_and_in_parts() {
    let text = "{\n \"name\": \"x\", \"version\": \"1.0.0\",\n \"dependencies\": {\n  \"a\": \"^1.2.3\",\n  \"@s/b\": \"github:o/r\"\n },\n \"devDependencies\": {\"c\": \"*\"}\n}";
    assert_eq!(read("web/package.json", text), pairs(&[("@s/b", "github:o/r"), ("a", "^1.2.3"), ("c", "*")]));
    let part = Kind::Npm.read("  \"version\": \"2.0.0\",\n  \"dependencies\": {\n    \"a\": \"~1.2\",\n  },\n  \"scripts\": {\n    \"t\": \"1.0\"\n", false);
    assert_eq!(part.keys().collect::<Vec<_>>(), ["a"]);
    let lock = "{\n \"packages\": {\n  \"\": {\n   \"version\": \"1.0.0\"\n  },\n  \"node_modules/a\": {\n   \"version\": \"3.0.0\",\n  },\n  \"node_modules/x/node_modules/@s/b\": {\n   \"version\": \"1.1.1\"";
    assert_eq!(read("package-lock.json", lock), pairs(&[("@s/b", "1.1.1"), ("a", "3.0.0")]));
    assert_eq!(Kind::of("node_modules/a/package.json"), None);
}

#[test]
fn python_manifests_are_read() {
    let text = "# c\nDjango==4.2 # pinned\nrequests[socks]>=2.0 ; python_version > '3'\n-r more.txt\n--index-url https://x/y\nzope.interface\nurl @ https://x/y.zip\n";
    let expected = [("django", "==4.2"), ("requests", ">=2.0"), ("url", "@ https://x/y.zip"), ("zope-interface", "")];
    assert_eq!(read("requirements-dev.txt", text), pairs(&expected));
    let text = "[build-system]\nrequires = [\"hatchling\"]\n[project]\nname = \"x\"\nversion = \"1\"\ndependencies = [\n  \"a>=1\",\n  'b_c ~= 2',\n]\n[project.optional-dependencies]\n\
                dev = [\"d<3\", \"e\"]\n[tool.poetry.dependencies]\npython = \"^3.9\"\nf = \"^1.0\"\ng = {version = \"2\"}\n[tool.ruff]\nline-length = 100\n";
    let expected = [("a", ">=1"), ("b-c", "~= 2"), ("d", "<3"), ("e", ""), ("f", "^1.0"), ("g", "2"), ("hatchling", "")];
    assert_eq!(read("pyproject.toml", text), pairs(&expected));
    assert_eq!(Kind::Pyproject.read("  \"a>=2\",\n  \"b\",\n", false).len(), 2);
}

#[test]
fn go_and_maven_manifests_are_read() {
    let text = "module x.y/z\n\ngo 1.22\n\nrequire a.b/c v1.2.3\nrequire (\n\td.e/f/v2 v2.0.0 // indirect\n)\nreplace a.b/c => ../c\n";
    assert_eq!(read("go.mod", text), pairs(&[("a.b/c", "v1.2.3"), ("a.b/c (replaced)", "../c"), ("d.e/f/v2", "v2.0.0")]));
    assert_eq!(Kind::GoMod.read("\tg.h/i v0.1.0\n", false).len(), 1);
    let text = "<project>\n<dependencies>\n<dependency>\n <groupId>g</groupId>\n <artifactId>a</artifactId>\n <version>1.0</version>\n</dependency>\n\
                <dependency><groupId>g</groupId><artifactId>t</artifactId><scope>test</scope></dependency>\n</dependencies>\n</project>";
    assert_eq!(read("pom.xml", text), pairs(&[("g:a", "1.0"), ("g:t", "")]));
}

#[test]
fn noise_is_survived() {
    let pieces = ["[", "]", "a", "=", "\"", "{", "}", "require (", "<version>", "\n", ".", "é", "@", "dependencies", ",", "'", ":", " "];
    let kinds = ["Cargo.toml", "Cargo.lock", "package.json", "package-lock.json", "requirements.txt", "pyproject.toml", "go.mod", "pom.xml"];
    let mut seed = 1u64;
    for round in 0..8000 {
        let mut text = String::new();
        for _ in 0..15 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            text.push_str(pieces[(seed >> 33) as usize % pieces.len()]);
        }
        Kind::of(kinds[round % kinds.len()]).unwrap().read(&text, round % 2 == 0);
    }
}
