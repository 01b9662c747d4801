//! What a file is, by its name.

use crate::text::path_fits;

/// Written by programs or by others: its lines say nothing of the work that was done.
pub(super) fn is_generated(path: &str) -> bool {
    const NAMES: [&str; 16] = [
        "cargo.lock", "package-lock.json", "npm-shrinkwrap.json", "yarn.lock", "pnpm-lock.yaml", "poetry.lock", "pipfile.lock", "uv.lock",
        "go.sum", "composer.lock", "gemfile.lock", "mix.lock", "flake.lock", "packages.lock.json", "gradle.lockfile", "bun.lock",
    ];
    const ENDINGS: [&str; 13] = [
        ".min.js", ".min.css", ".map", ".snap", ".pb.go", ".pb.rs", "_pb2.py", ".g.dart", ".designer.cs", ".bundle.js", "_generated.go",
        ".generated.ts", ".generated.rs",
    ];
    const FOLDERS: [&str; 4] = ["node_modules", "vendor", "third_party", "dist"];
    let path = path.to_lowercase();
    let (folders, name) = path.rsplit_once('/').unwrap_or(("", &path));
    NAMES.contains(&name)
        || ENDINGS.iter().any(|ending| name.ends_with(ending))
        || folders.split('/').any(|folder| FOLDERS.contains(&folder))
}

/// Whether a file holds tests or what they use.
pub(super) fn is_test(path: &str) -> bool {
    const FOLDERS: [&str; 10] =
        ["test", "tests", "spec", "__tests__", "testdata", "fixtures", "e2e", "__mocks__", "benches", "examples"];
    let lower = path.to_lowercase();
    let (folders, name) = lower.rsplit_once('/').unwrap_or(("", &lower));
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    folders.split('/').any(|folder| FOLDERS.contains(&folder))
        || stem.starts_with("test_")
        || ["_test", "_tests", ".test", ".spec", "_spec"].iter().any(|ending| stem.ends_with(ending))
        || ["Test.java", "Tests.java", "Test.kt", "Tests.cs", "IT.java"].iter().any(|ending| path.ends_with(ending))
        || stem == "tests"
        || stem == "conftest"
}

/// Whether a file is written for people.
pub(super) fn is_prose(path: &str) -> bool {
    let patterns = ["*.md", "*.mdx", "*.rst", "*.adoc", "*.markdown", "README", "CONTRIBUTING"].map(str::to_owned);
    path_fits(path, &patterns)
}

/// Whether a file is prose in Markdown.
pub(super) fn is_markdown(path: &str) -> bool {
    let lower = path.to_lowercase();
    [".md", ".mdx", ".markdown"].iter().any(|ending| lower.ends_with(ending))
}

/// The language of a file, for people; `None` where its name does not tell.
pub(super) fn language(path: &str) -> Option<&'static str> {
    let name = path.rsplit('/').next().unwrap_or(path);
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension).to_lowercase();
    let known = match extension.as_str() {
        "rs" => "Rust",
        "go" => "Go",
        "py" | "pyi" => "Python",
        "ts" | "tsx" | "mts" | "cts" => "TypeScript",
        "js" | "jsx" | "mjs" | "cjs" => "JavaScript",
        "java" => "Java",
        "kt" | "kts" => "Kotlin",
        "c" | "h" => "C",
        "cc" | "cpp" | "cxx" | "hpp" | "hh" => "C++",
        "cs" => "C#",
        "rb" => "Ruby",
        "php" => "PHP",
        "swift" => "Swift",
        "scala" => "Scala",
        "sh" | "bash" => "Shell",
        "sql" => "SQL",
        "proto" => "Protobuf",
        "md" | "mdx" | "rst" | "adoc" | "markdown" => "prose",
        "yaml" | "yml" => "YAML",
        "json" => "JSON",
        "toml" => "TOML",
        "html" => "HTML",
        "css" | "scss" => "CSS",
        "tf" => "Terraform",
        _ if name == "Dockerfile" => "Dockerfile",
        _ if name == "Makefile" => "Make",
        _ => return None,
    };
    Some(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_what_a_file_is() {
        for path in ["Cargo.lock", "a/package-lock.json", "web/x.min.js", "vendor/a/b.go", "api/x.pb.go"] {
            assert!(is_generated(path), "{path}");
        }
        assert!(!is_generated("src/lock.rs") && !is_generated("distance/a.rs"));
        for path in ["tests/a.rs", "src/a_test.go", "x/test_a.py", "a.spec.ts", "src/FooTest.java", "src/report_tests.rs"] {
            assert!(is_test(path), "{path}");
        }
        assert!(!is_test("src/attest.rs") && !is_test("src/latest.py") && !is_test("contest/a.rs"));
        assert!(is_prose("README") && is_prose("docs/a.rst") && !is_prose("readme.rs/x.c"));
        assert_eq!((language("a/b.tsx"), language("Dockerfile"), language("x")), (Some("TypeScript"), Some("Dockerfile"), None));
    }
}
