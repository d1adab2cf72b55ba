//! The architecture holds: who knows whom, what libraries may do, and that the code map tells the truth.
//!
//! Dependencies come from `cargo metadata`; sources are read as tokens, so that comments and strings do not count.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clearway_tests::repository;
use serde_json::Value;

/// What each library knows of the workspace. A crate that is not here yet needs a row, and the code map the same one.
const KNOWS: [(&str, &[&str]); 8] = [
    ("crates/layers", &[]),
    ("crates/diffusion", &[]),
    ("crates/motion", &[]),
    (
        "crates/planner",
        &["clearway-layers", "clearway-diffusion", "clearway-motion"],
    ),
    ("crates/log", &["clearway-planner", "clearway-motion"]),
    (
        "crates/stable-diffusion",
        &["clearway-layers", "clearway-diffusion"],
    ),
    ("crates/viz", &["clearway-motion"]),
    ("sim", &["clearway-motion"]),
];

/// What wires the libraries, and may know them all.
const PROGRAMS: [&str; 4] = ["crates/cli", "examples", "tests", "benches"];

/// The one folder with unsafe code.
const KERNELS: &str = "crates/layers/src/kernel/";

/// The one file that allows it, for that folder.
const ALLOWS_KERNELS: &str = "crates/layers/src/lib.rs";

/// The one file that reaches for the network, when its caller says so.
const CONNECT: &str = "crates/viz/src/recording.rs";

/// The code map, relative to the repository.
const MAP: &str = "crates/README.md";

#[test]
fn crates_know_what_the_table_says() {
    for package in packages() {
        let knows = package.knows();
        for dependency in package.dependencies(&["normal", "build"]) {
            let name = &dependency.name;
            assert!(
                !name.starts_with("clearway") || knows.is_none_or(|known| known.contains(&&**name)),
                "{} depends on {name}, which it must not know; wire the two in crates/cli, examples or tests",
                package.folder
            );
        }
    }
}

#[test]
fn unit_tests_know_no_more_than_their_crate() {
    for package in packages() {
        let knows = package.knows();
        for dependency in package.dependencies(&["dev"]) {
            let name = &dependency.name;
            assert!(
                !name.starts_with("clearway") || knows.is_none_or(|known| known.contains(&&**name)),
                "{} has {name} as a dev-dependency; a test that needs both belongs into tests/",
                package.folder
            );
        }
    }
}

#[test]
fn only_viz_knows_rerun() {
    for package in packages().iter().filter(|it| it.folder != "crates/viz") {
        for dependency in &package.dependencies {
            assert!(
                dependency.name != "rerun" && !dependency.name.starts_with("re_"),
                "{} depends on {}; log through crates/viz",
                package.folder,
                dependency.name
            );
        }
    }
}

#[test]
fn motion_sim_and_viz_hold_no_tensors() {
    for package in packages() {
        if ["crates/motion", "sim", "crates/viz"].contains(&&*package.folder) {
            for dependency in &package.dependencies {
                assert!(
                    !dependency.name.starts_with("burn"),
                    "{} depends on {}; tensors end where the planner returns a trajectory",
                    package.folder,
                    dependency.name
                );
            }
        }
    }
}

#[test]
fn libraries_leave_the_backend_to_the_program() {
    for package in libraries() {
        for dependency in package.dependencies(&["normal", "build"]) {
            assert!(
                dependency.name == "burn" || !dependency.name.starts_with("burn-"),
                "{} depends on {}; depend on burn, by `burn.workspace = true`",
                package.folder,
                dependency.name
            );
            assert!(
                dependency.name != "burn"
                    || (!dependency.default && dependency.features == ["std"]),
                "{} turns on {:?} of burn (default features: {}); write `burn.workspace = true`, and backends into \
                 [dev-dependencies] or the program",
                package.folder,
                dependency.features,
                dependency.default
            );
        }
    }
}

#[test]
fn libraries_bring_nothing_that_only_programs_need() {
    let programs_only = [
        "clap",
        "criterion",
        "indicatif",
        "mimalloc",
        "parquet",
        "plotters",
        "tracing-subscriber",
    ];
    for package in libraries() {
        for dependency in package.dependencies(&["normal", "build"]) {
            assert!(
                // What a feature brings, who wants the feature builds.
                dependency.optional || !programs_only.contains(&&*dependency.name),
                "{} depends on {}; every user of the library would build it, so it belongs to a program",
                package.folder,
                dependency.name
            );
        }
    }
}

#[test]
fn published_names_carry_the_prefix_and_folders_do_not() {
    for package in packages() {
        let folder = package.folder.rsplit('/').next().unwrap_or_default();
        let expected = if package.folder == "crates/cli" {
            "clearway".to_owned()
        } else {
            format!("clearway-{folder}")
        };
        assert_eq!(
            package.name, expected,
            "the package in {} has another name than its folder says",
            package.folder
        );
        assert!(
            !folder.starts_with("clearway"),
            "the folder {} repeats the prefix; call it {}",
            package.folder,
            folder
                .trim_start_matches("clearway")
                .trim_start_matches('-')
        );
    }
}

#[test]
fn every_package_obeys_the_workspace_lints() {
    for package in packages() {
        // Claims and benchmarks print, unwrap and repeat themselves.
        if ["tests", "benches"].contains(&&*package.folder) {
            continue;
        }
        let manifest = read(&repository(&package.folder).join("Cargo.toml"));
        let mut section = "";
        let opts_in = manifest.lines().map(str::trim).any(|line| {
            if line.starts_with('[') {
                section = line;
            }
            (section == "[lints]" && line == "workspace = true") || line == "lints.workspace = true"
        });
        assert!(
            opts_in,
            "{}/Cargo.toml has lints of its own or none; add `[lints]` with `workspace = true`",
            package.folder
        );
    }
}

#[test]
fn the_code_map_lists_every_package() {
    let listed = paths_in_the_map();
    for package in packages() {
        let path = &package.folder;
        let name = path.rsplit('/').next().unwrap_or_default();
        let spellings = [path.clone(), format!("{path}/"), format!("{name}/")];
        assert!(
            spellings.iter().any(|spelling| listed.contains(spelling)),
            "{MAP} does not list `{path}`; say there what it is for and what it knows"
        );
    }
}

#[test]
fn what_the_code_map_lists_exists() {
    let roots = [repository(""), repository("crates")];
    for path in paths_in_the_map() {
        let first = path.split('/').next().unwrap_or_default();
        let is_folder = path.ends_with('/');
        let is_path = path.contains('/') && roots.iter().any(|root| root.join(first).is_dir());
        assert!(
            !(is_folder || is_path) || roots.iter().any(|root| root.join(&path).exists()),
            "{MAP} speaks of `{path}`, which is neither in the repository nor in crates/; correct the map"
        );
    }
}

#[test]
fn no_module_is_a_drawer() {
    const DRAWERS: [&str; 7] = [
        "common", "helper", "helpers", "misc", "models", "util", "utils",
    ];
    for source in sources() {
        let stems = source.path.trim_end_matches(".rs").split('/');
        let inline = source
            .tokens
            .windows(2)
            .filter(|pair| pair[0].text == "mod")
            .map(|pair| pair[1].text.as_str());
        for name in stems.chain(inline) {
            assert!(
                !DRAWERS.contains(&name),
                "{} has a module `{name}`; name it by what it does, or put it where it is used",
                source.path
            );
        }
    }
}

#[test]
fn unsafe_code_lives_in_the_kernels_alone() {
    for source in sources() {
        if !source.path.starts_with(KERNELS) {
            source.forbids(
                &["unsafe"],
                "unsafe code lives in crates/layers/src/kernel/ alone",
            );
        }
        // The workspace denies it and does not forbid it, so that one module may allow it.
        if source.path != ALLOWS_KERNELS {
            source.forbids(
                &["unsafe_code"],
                "only the kernels' own module may allow unsafe code",
            );
        }
    }
}

#[test]
fn no_type_is_generic_over_a_backend() {
    for source in sources() {
        for (index, token) in source.tokens.iter().enumerate() {
            if !["Backend", "AutodiffBackend"].contains(&&*token.text) {
                continue;
            }
            // Back over a path, `burn::tensor::backend::`, to what it bounds.
            let mut before = index;
            while before >= 3 && source.spells(before - 2, &[":", ":"]) {
                before -= 3;
            }
            let text = |back: usize| {
                before
                    .checked_sub(back)
                    .map_or("", |at| &source.tokens[at].text)
            };
            let is_parameter = text(1) == ":"
                && text(2).starts_with(char::is_uppercase)
                && ["<", ",", "where"].contains(&text(3));
            assert!(
                !is_parameter && text(1) != "impl",
                "{}:{} is generic over a backend; burn has none since 0.22: take `Tensor<D>` and `&Device`",
                source.path,
                token.line
            );
        }
    }
}

#[test]
fn libraries_do_not_print() {
    let folders = libraries().into_iter().map(|package| package.folder);
    let folders: Vec<String> = folders.map(|folder| format!("{folder}/src/")).collect();
    for source in sources() {
        if folders.iter().any(|folder| source.path.starts_with(folder)) {
            for name in ["print", "println", "eprint", "eprintln", "dbg"] {
                source.without_unit_tests().forbids(
                    &[name, "!"],
                    "a library returns values and errors, and reports by `tracing`",
                );
            }
        }
    }
}

#[test]
fn nothing_opens_a_socket() {
    const WHY: &str =
        "Clearway opens no socket; only viz connects to a viewer, when its caller says so";
    let types = [
        "TcpListener",
        "TcpStream",
        "UdpSocket",
        "UnixDatagram",
        "UnixListener",
        "UnixStream",
        "ToSocketAddrs",
        "tokio",
    ];
    let viewers = [
        "connect_grpc",
        "connect_grpc_opts",
        "serve_grpc",
        "serve_grpc_opts",
    ];
    for source in sources() {
        source.forbids(&[":", ":", "net"], WHY);
        source.forbids(&["net", ":", ":"], WHY);
        for name in types {
            source.forbids(&[name], WHY);
        }
        for name in viewers {
            if source.path != CONNECT {
                source.forbids(&[name], WHY);
            }
        }
    }
    for package in packages() {
        for dependency in &package.dependencies {
            assert!(
                !["tokio", "hyper", "reqwest", "ureq", "quinn", "mio"].contains(&&*dependency.name),
                "{} depends on {}; {WHY}",
                package.folder,
                dependency.name
            );
        }
    }
}

#[test]
fn comments_and_strings_are_not_code() {
    let code = r####"
        //! unsafe
        /* unsafe /* unsafe */ unsafe */
        fn f<'a>(x: &'a str) -> char { "unsafe \" unsafe"; r#"unsafe " unsafe"#; b"unsafe"; '"' }
        fn unsafe_code() { '\''; safe }
    "####;
    let tokens = tokens(code);
    let words: Vec<&str> = tokens
        .iter()
        .map(|token| token.text.as_str())
        .filter(|text| text.starts_with(char::is_alphabetic))
        .collect();
    assert_eq!(
        words,
        ["fn", "f", "x", "str", "char", "fn", "unsafe_code", "safe"]
    );
    assert_eq!(tokens.last().map(|token| token.line), Some(5));
}

/// A package of the workspace.
struct Package {
    name: String,
    /// Relative to the repository, with slashes.
    folder: String,
    dependencies: Vec<Dependency>,
}

struct Dependency {
    name: String,
    kind: String,
    default: bool,
    optional: bool,
    features: Vec<String>,
}

impl Package {
    fn dependencies(&self, kinds: &[&str]) -> impl Iterator<Item = &Dependency> {
        self.dependencies
            .iter()
            .filter(move |dependency| kinds.contains(&&*dependency.kind))
    }

    /// What a library may know of the workspace; `None` for a program.
    fn knows(&self) -> Option<&'static [&'static str]> {
        if PROGRAMS.contains(&&*self.folder) {
            return None;
        }
        let row = KNOWS.iter().find(|(folder, _)| *folder == self.folder);
        let (_, known) = row.unwrap_or_else(|| {
            panic!(
                "{} is new: decide what it knows, and write it into KNOWS in tests/the_house_stands.rs and into {MAP}",
                self.folder
            )
        });
        Some(known)
    }
}

fn packages() -> Vec<Package> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "metadata",
            "--format-version=1",
            "--no-deps",
            "--offline",
            "--manifest-path",
        ])
        .arg(repository("Cargo.toml"))
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    let list = |value: &Value| value.as_array().expect("a list").clone();
    let root = PathBuf::from(text(&metadata["workspace_root"]));

    let dependency = |value: &Value| Dependency {
        name: text(&value["name"]),
        kind: value["kind"].as_str().unwrap_or("normal").to_owned(),
        default: value["uses_default_features"]
            .as_bool()
            .expect("true or false"),
        optional: value["optional"].as_bool().expect("true or false"),
        features: list(&value["features"]).iter().map(text).collect(),
    };
    list(&metadata["packages"])
        .iter()
        .map(|package| {
            let manifest = PathBuf::from(text(&package["manifest_path"]));
            let folder = manifest.parent().expect("a manifest is in a folder");
            Package {
                name: text(&package["name"]),
                folder: slashed(folder.strip_prefix(&root).expect("in the workspace")),
                dependencies: list(&package["dependencies"])
                    .iter()
                    .map(dependency)
                    .collect(),
            }
        })
        .collect()
}

fn libraries() -> Vec<Package> {
    let mut packages = packages();
    packages.retain(|package| !PROGRAMS.contains(&&*package.folder));
    packages
}

/// What the code map has in backticks, outside of fenced blocks, and could be a path.
fn paths_in_the_map() -> BTreeSet<String> {
    let map = read(&repository(MAP));
    // Every other part of a text that is split at its fences is outside of them.
    let prose: String = map.split("```").step_by(2).collect();
    prose
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|span| {
            span.chars()
                .all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c))
        })
        .map(str::to_owned)
        .collect()
}

/// A Rust file of the workspace.
struct Source {
    /// Relative to the repository, with slashes.
    path: String,
    tokens: Vec<Token>,
}

/// A word, or one character of anything else.
#[derive(Clone)]
struct Token {
    line: usize,
    text: String,
}

impl Source {
    fn spells(&self, at: usize, words: &[&str]) -> bool {
        let tokens = self.tokens.iter().skip(at).take(words.len());
        tokens
            .map(|token| token.text.as_str())
            .eq(words.iter().copied())
    }

    #[track_caller]
    fn forbids(&self, words: &[&str], why: &str) {
        for (index, token) in self.tokens.iter().enumerate() {
            assert!(
                !self.spells(index, words),
                "{}:{} has `{}`; {why}",
                self.path,
                token.line,
                words.concat()
            );
        }
    }

    /// The part before the unit tests, which stand last.
    fn without_unit_tests(&self) -> Self {
        let head = ["#", "[", "cfg", "(", "test", ")", "]", "mod"];
        let end = (0..self.tokens.len()).find(|&index| self.spells(index, &head));
        Self {
            path: self.path.clone(),
            tokens: self.tokens[..end.unwrap_or(self.tokens.len())].to_vec(),
        }
    }
}

fn sources() -> Vec<Source> {
    fn collect(folder: &Path, root: &Path, into: &mut Vec<Source>) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                collect(&path, root, into);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                into.push(Source {
                    tokens: tokens(&read(&path)),
                    path: slashed(path.strip_prefix(root).expect("in the repository")),
                });
            }
        }
    }
    let root = repository("");
    let mut sources = vec![];
    for package in packages() {
        collect(&root.join(&package.folder), &root, &mut sources);
    }
    assert!(sources.len() > 50, "the sources are not where they were");
    sources
}

/// Splits Rust into tokens, without comments and the contents of literals.
fn tokens(code: &str) -> Vec<Token> {
    let chars: Vec<char> = code.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    // The end of a literal that begins behind `i` and ends with `quote`.
    let literal = |mut i: usize, quote: char| {
        while i < chars.len() && at(i) != quote {
            i += if at(i) == '\\' { 2 } else { 1 };
        }
        i + 1
    };
    let mut found = vec![];
    let (mut i, mut counted, mut line) = (0, 0, 1);
    while i < chars.len() {
        line += chars[counted..i].iter().filter(|&&c| c == '\n').count();
        counted = i;
        let start = i;
        match at(i) {
            '/' if at(i + 1) == '/' => {
                while i < chars.len() && at(i) != '\n' {
                    i += 1;
                }
            }
            '/' if at(i + 1) == '*' => {
                let mut depth = 0;
                loop {
                    let step = match (at(i), at(i + 1)) {
                        ('/', '*') => (2, 1),
                        ('*', '/') => (2, -1),
                        _ => (1, 0),
                    };
                    i += step.0;
                    depth += step.1;
                    if depth == 0 || i >= chars.len() {
                        break;
                    }
                }
            }
            '"' => i = literal(i + 1, '"'),
            // A lifetime has no second quote: 'a' and '\n' are characters, 'a is not.
            '\'' if at(i + 1) == '\\' || at(i + 2) == '\'' => i = literal(i + 1, '\''),
            '\'' => {
                i += 1;
                while is_word(at(i)) {
                    i += 1;
                }
            }
            c if is_word(c) => {
                while is_word(at(i)) {
                    i += 1;
                }
                let word: String = chars[start..i].iter().collect();
                let hashes = chars[i..].iter().take_while(|&&c| c == '#').count();
                let is_raw = ["r", "br", "cr"].contains(&&*word) && at(i + hashes) == '"';
                if is_raw {
                    i += hashes + 1;
                    let ends = |i: usize| at(i) == '"' && (1..=hashes).all(|k| at(i + k) == '#');
                    while i < chars.len() && !ends(i) {
                        i += 1;
                    }
                    i += hashes + 1;
                } else if !(["b", "c"].contains(&&*word) && ['"', '\''].contains(&at(i))) {
                    found.push(Token { line, text: word });
                }
            }
            c => {
                if !c.is_whitespace() {
                    found.push(Token {
                        line,
                        text: c.to_string(),
                    });
                }
                i += 1;
            }
        }
        i = i.min(chars.len());
    }
    found
}

fn slashed(path: &Path) -> String {
    path.to_string_lossy().replace('\\', "/")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
