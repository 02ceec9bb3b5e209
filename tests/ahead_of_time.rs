//! Ahead-of-time code of plugins: used where it can be trusted, and otherwise told of and not used.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use end_to_end::{Cluster, bundled, guest, program};
use tempfile::TempDir;

const GRANT_ALL: &str = "[[grant]]\nplugin = \"*\"\ncapabilities = [\"*\"]\n";

/// The program in a directory of its own with the plugin `build` beside it, as in an image.
struct Installed {
    directory: TempDir,
}

impl Installed {
    fn new() -> Self {
        let built = program();
        // On one file system with the program that was built, so that a link will do for its many megabytes.
        let directory = tempfile::tempdir_in(built.parent().unwrap()).unwrap();
        let installed = Self { directory };
        std::fs::hard_link(built, installed.program()).unwrap();
        std::fs::create_dir(installed.plugins()).unwrap();
        std::fs::copy(bundled("build"), installed.plugins().join("build.wasm")).unwrap();
        for directory in [installed.directory.path(), &installed.plugins()] {
            mode(directory, 0o755);
        }
        installed
    }

    fn program(&self) -> PathBuf {
        self.directory.path().join("orka-step")
    }

    fn plugins(&self) -> PathBuf {
        self.directory.path().join("plugins")
    }

    fn code(&self) -> PathBuf {
        self.plugins().join("build.cwasm")
    }

    /// Runs the program with these words and gives its exit code and what it wrote.
    fn say(&self, words: &[&str]) -> (Option<i32>, String) {
        let output = Command::new(self.program())
            .args(words)
            .env_clear()
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    }

    fn compile(&self, words: &[&str]) {
        let (code, text) = self.say(&[&["plugin", "compile"], words].concat());
        assert_eq!(code, Some(0), "{text}");
    }
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundled_plugin_uses_its_code_until_a_byte_of_it_changes() {
    let (cluster, installed) = (Cluster::start().await, Installed::new());
    installed.compile(&["build", "--into", text(&installed.plugins())]);
    let run = || {
        let step = cluster.build("#!/bin/sh\ntrue\n").argument("-v");
        step.program(installed.program()).ended()
    };
    let ended = run().await;
    ended.assert(0, "succeeded");
    ended.assert_says(&[&format!(
        "the plugin's code is from `{}`",
        text(&installed.code())
    )]);

    let mut bytes = std::fs::read(installed.code()).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(installed.code(), &bytes).unwrap();
    let ended = run().await;
    ended.assert(0, "succeeded");
    ended.assert_says(&[
        "warning: the ahead-of-time code",
        "its bytes are not those that were recorded; the plugin is compiled instead",
        "the plugin was compiled in",
    ]);

    installed.compile(&["build", "--into", text(&installed.plugins())]);
    mode(&installed.plugins(), 0o777);
    let ended = run().await;
    ended.assert(0, "succeeded");
    ended.assert_says(&["its directory may be written by others (mode 777)"]);
    cluster.assert_purged();
}

#[tokio::test(flavor = "multi_thread")]
async fn code_beside_a_plugin_that_did_not_come_with_the_program_is_never_used() {
    let (cluster, installed) = (Cluster::start().await, Installed::new());
    let foreign = installed.directory.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    let plugin = foreign.join("build.wasm");
    std::fs::copy(bundled("build"), &plugin).unwrap();
    installed.compile(&[text(&plugin), "--into", text(&foreign)]);
    for flags in [
        &[("--plugin", text(&plugin))][..],
        &[("--plugin", "build"), ("--plugin-dir", text(&foreign))],
    ] {
        let mut step = cluster.build("#!/bin/sh\ntrue\n").argument("-v");
        for (name, value) in flags {
            step = step.flag(name, *value);
        }
        let ended = step.granted(GRANT_ALL).ended().await;
        ended.assert(0, "succeeded");
        ended.assert_says(&["the plugin was compiled in"]);
    }
}

/// A cache, a key beside it, and a plugin that did not come with the program.
struct Cache {
    place: TempDir,
}

impl Cache {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        std::fs::create_dir(place.path().join("cache")).unwrap();
        mode(&place.path().join("cache"), 0o755);
        let cache = Self { place };
        cache.write_key(7);
        cache
    }

    fn write_key(&self, byte: u8) {
        std::fs::write(self.key(), [byte; 32]).unwrap();
        mode(&self.key(), 0o600);
    }

    fn directory(&self) -> PathBuf {
        self.place.path().join("cache")
    }

    fn key(&self) -> PathBuf {
        self.place.path().join("key")
    }

    fn files(&self) -> usize {
        std::fs::read_dir(self.directory()).unwrap().count()
    }

    /// A run of the plugin `build` as a file, with this cache.
    async fn run(&self, cluster: &Cluster, program: &Path) -> end_to_end::Ended {
        let ended = cluster
            .build("#!/bin/sh\ntrue\n")
            .argument("-v")
            .flag("--plugin", text(&bundled("build")))
            .flag("--plugin-cache", text(&self.directory()))
            .flag("--plugin-cache-key", text(&self.key()))
            .granted(GRANT_ALL)
            .program(program)
            .ended()
            .await;
        ended.assert(0, "succeeded");
        ended
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_run_compiles_the_next_one_finds_in_the_cache() {
    let (cluster, cache, own) = (Cluster::start().await, Cache::new(), program());
    let first = cache.run(&cluster, &own).await;
    first.assert_says(&["the plugin was compiled in"]);
    assert!(!first.stderr.contains("warning"), "{first}");
    assert_eq!(cache.files(), 1);
    let second = cache.run(&cluster, &own).await;
    second.assert_says(&["the plugin's code is from `", text(&cache.directory())]);

    // Under another key nothing that is there counts; it is replaced, and then the old key's turn is over.
    cache.write_key(8);
    let third = cache.run(&cluster, &own).await;
    third.assert_says(&[
        "its record was not made with this cache's key",
        "the plugin was compiled in",
    ]);
    let fourth = cache.run(&cluster, &own).await;
    fourth.assert_says(&["the plugin's code is from `"]);
    assert_eq!(cache.files(), 1);

    mode(&cache.directory(), 0o777);
    let fifth = cache.run(&cluster, &own).await;
    fifth.assert_says(&[
        "the cache's directory may be written by others (mode 777)",
        "the plugin was compiled in",
        "cannot be kept",
    ]);
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_compile_fills_the_cache_that_a_run_uses() {
    let (cluster, installed, cache) = (Cluster::start().await, Installed::new(), Cache::new());
    installed.compile(&[
        text(&bundled("build")),
        "--plugin-cache",
        text(&cache.directory()),
        "--plugin-cache-key",
        text(&cache.key()),
    ]);
    let ended = cache.run(&cluster, &program()).await;
    ended.assert_says(&["the plugin's code is from `", text(&cache.directory())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_is_full_costs_a_warning_and_nothing_else() {
    let (cluster, cache) = (Cluster::start().await, Cache::new());
    // No file of this process may grow beyond 64 KiB, which the code does: as on a disk that is full.
    let wrapper = cache.place.path().join("program");
    let script = format!(
        "#!/bin/sh\ntrap '' XFSZ\nulimit -f 128\nexec '{}' \"$@\"\n",
        text(&program())
    );
    std::fs::write(&wrapper, script).unwrap();
    mode(&wrapper, 0o755);
    let ended = cache.run(&cluster, &wrapper).await;
    ended.assert_says(&["the plugin was compiled in", "cannot be kept in"]);
    assert_eq!(cache.files(), 0, "half a file was left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_without_a_key_is_told_before_anything_is_sent() {
    let (cluster, cache) = (Cluster::start().await, Cache::new());
    let ended = cluster
        .build("true")
        .flag("--plugin-cache", text(&cache.directory()))
        .ended()
        .await;
    ended.assert(211, "infra-failed");
    ended.assert_says(&[
        "`--plugin-cache` is given without its key",
        "--plugin-cache-key FILE",
    ]);
    // What is not there is told with what makes it.
    let absent = cache.place.path().join("absent");
    for (directory, key, said) in [
        (&absent, &cache.key(), "`mkdir -p "),
        (&cache.directory(), &absent, "`head -c 32 /dev/urandom > "),
    ] {
        let step = cluster
            .build("true")
            .flag("--plugin-cache", text(directory));
        let ended = step.flag("--plugin-cache-key", text(key)).ended().await;
        ended.assert(211, "infra-failed");
        ended.assert_says(&[said, text(&absent)]);
    }
    cluster.assert_untouched();
}

#[test]
fn plugin_bench_measures_a_guard_with_its_configuration() {
    let rules = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(rules.path(), "image sonoma.orkasi\n").unwrap();
    let plugins = bundled("allowed-vms").parent().unwrap().to_owned();
    let installed = Installed::new();
    let bench = |words: &[&str]| {
        let common = ["--plugin-dir", text(&plugins), "--repetitions", "3"];
        installed.say(&[&["plugin", "bench"], words, &common].concat())
    };
    let (code, told) = bench(&["allowed-vms"]);
    assert_eq!(code, Some(0), "{told}");
    assert!(told.starts_with("guard allowed-vms "), "{told}");
    let guard = format!("allowed-vms={}", rules.path().display());
    let (code, told) = bench(&[&guard, "--json"]);
    assert_eq!(code, Some(0), "{told}");
    let figures: serde_json::Value = serde_json::from_str(&told).unwrap();
    for name in ["startMs", "questionUs", "compileMs"] {
        assert!(figures[name].as_f64() > Some(0.0), "{name}: {told}");
    }
    let other = format!("allowed-vms@sha256:{}", "0".repeat(64));
    for guard in [&other, &format!("{other}={}", rules.path().display())] {
        let (code, told) = bench(&[guard]);
        assert_eq!(code, Some(212), "{told}");
        let named = format!("sha256:{} was asked for", "0".repeat(64));
        assert!(told.contains(&named), "{told}");
    }
    // What has the signs of such a name, and is no file, is told as what it was given as.
    for path in ["./a=b/nope.wasm", "buidl=rules.txt"] {
        let (code, told) = bench(&[path]);
        assert_eq!(code, Some(212), "{told}");
        assert!(told.contains(&format!("plugin `{path}`")), "{told}");
        assert!(!told.contains("--guard"), "{told}");
    }
    let (_, told) = bench(&["allowed-vms", "--json"]);
    let figures: serde_json::Value = serde_json::from_str(&told).unwrap();
    let pinned = format!("allowed-vms@{}", figures["digest"].as_str().unwrap());
    let (code, told) = bench(&[&pinned]);
    assert_eq!(code, Some(0), "{told}");
    std::fs::write(rules.path(), "no rule\n").unwrap();
    let (code, told) = bench(&[&guard]);
    assert_eq!(code, Some(212), "{told}");
    assert!(
        told.contains(
            "it refuses its configuration: line 1: `no rule`; a rule is `image PATTERN` or"
        ),
        "{told}"
    );
}

#[test]
fn plugin_bench_measures_each_step() {
    let (code, text) = Installed::new().say(&["plugin", "bench", "--repetitions", "3", "--json"]);
    assert_eq!(code, Some(0), "{text}");
    let figures: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(figures["plugin"], "build");
    for name in [
        "readMs",
        "loadCodeMs",
        "linkMs",
        "loadMs",
        "firstStartMs",
        "startMs",
        "hostCallUs",
        "engineMs",
        "compileMs",
    ] {
        assert!(
            figures[name].as_f64().is_some_and(|it| it > 0.0),
            "{name}: {text}"
        );
    }
    let sum: f64 = ["readMs", "loadCodeMs", "linkMs"]
        .iter()
        .filter_map(|name| figures[name].as_f64())
        .sum();
    assert!(
        (sum - figures["loadMs"].as_f64().unwrap()).abs() < 0.001,
        "{text}"
    );
}

#[test]
fn plugin_compile_says_where_code_could_go() {
    let (code, text) = Installed::new().say(&["plugin", "compile", "build"]);
    assert_eq!(code, Some(211), "{text}");
    assert!(
        text.contains("--into DIR") && text.contains("--plugin-cache DIR"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn guards_use_their_code_as_plugins_do() {
    let (cluster, installed, cache) = (Cluster::start().await, Installed::new(), Cache::new());
    let stock = installed.plugins().join("allowed-vms.wasm");
    std::fs::copy(bundled("allowed-vms"), stock).unwrap();
    let into = installed.plugins();
    installed.compile(&["build", "allowed-vms", "--into", text(&into)]);
    let odd = guest("odd-guard");
    let (directory, key) = (cache.directory(), cache.key());
    let place = ["--plugin-cache", text(&directory), "--plugin-cache-key"];
    installed.compile(&[&[text(&odd)], &place[..], &[text(&key)]].concat());
    let step = cluster.build("#!/bin/sh\ntrue\n").argument("-v");
    let rules = step.scratch_file("rules.txt", b"image *\n");
    let ended = step
        .flag("--guard", format!("allowed-vms={rules},{}", text(&odd)))
        .flag("--plugin-cache", text(&directory))
        .flag("--plugin-cache-key", text(&key))
        .program(installed.program())
        .ended()
        .await;
    ended.assert(0, "succeeded");
    ended.assert_says(&[
        &format!(
            "the code of guard `allowed-vms` is from `{}",
            text(&installed.plugins())
        ),
        &format!(
            "the code of guard `odd-guard` is from `{}",
            text(&directory)
        ),
    ]);
    let (code, said) = installed.say(&["plugin", "compile", "/etc/passwd", "--into", text(&into)]);
    assert_eq!(code, Some(212), "{said}");
}
