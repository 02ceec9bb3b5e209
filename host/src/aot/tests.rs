use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;
use plugin_engine::EngineId;
use plugin_manifest::Manifest;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::cache::{CacheKey, CodeCache, check_owner};
use super::compiler::Bounds;
use super::known::Known;
use super::native::{self, Authority, Refusal};
use super::place::{Program, beside, unpacked};
use crate::engine::{self, Component, Engine};
use crate::plugin::Plugin;

/// A component in which a number stands, so that there are different ones.
fn plugin(number: u32) -> Plugin {
    let bytes = wat::parse_str(format!(
        "(component (core module (func (export \"f\") (result i32) (i32.const {number}))) (core instance (instantiate 0)) \
         (func (export \"f\") (result u32) (canon lift (core func 0 \"f\"))))"
    ))
    .unwrap();
    let manifest = "[plugin]\nname = \"x\"\nversion = \"0.1.0\"\ncontract = \"0.1\"\ndescription = \"x\"\ncapabilities = []\n";
    Plugin {
        digest: format!("sha256:{}", hex::encode(Sha256::digest(&bytes))),
        bytes,
        manifest: Manifest::parse_toml(manifest).unwrap(),
        path: "x.wasm".into(),
        bundled: true,
    }
}

fn code(engine: &Engine, plugin: &Plugin) -> Vec<u8> {
    engine::compile(engine, plugin, &Bounds::default())
        .unwrap()
        .serialize()
        .unwrap()
}

fn key(byte: u8) -> CacheKey {
    CacheKey::new(vec![byte; 32]).unwrap()
}

/// An engine, a plugin, and both forms of its code.
struct Stage {
    engine: Engine,
    id: EngineId,
    plugin: Plugin,
    directory: TempDir,
}

impl Stage {
    fn new() -> Self {
        let engine = engine::engine().unwrap();
        Self {
            id: EngineId::own(),
            engine,
            plugin: plugin(1),
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn sealed(&self, key: Option<&CacheKey>) -> Vec<u8> {
        let code = code(&self.engine, &self.plugin);
        plugin_engine::seal(
            code,
            &self.plugin.digest,
            &self.id,
            key.map(CacheKey::bytes),
        )
    }

    fn load(&self, bytes: &[u8], authority: &Authority<'_>) -> Result<Component, Refusal> {
        native::load(
            &self.engine,
            &self.id,
            &self.plugin.digest,
            bytes,
            authority,
        )
    }

    /// A file beside a program that is owned as the test's files are.
    fn file_beside(&self, bytes: &[u8]) -> PathBuf {
        let path = self.directory.path().join("x.cwasm");
        fs::write(&path, bytes).unwrap();
        mode(&path, 0o644);
        path
    }

    /// The owner of the test's files as the program's.
    fn program(&self) -> Program {
        let metadata = self.directory.path().metadata().unwrap();
        Program {
            owner: metadata.uid(),
            device: metadata.dev(),
        }
    }

    fn load_beside(&self, program: Program, path: &Path) -> Result<Option<Component>, Refusal> {
        self.load_known("", program, path)
    }

    /// The same for a program that was built with what is in the list.
    fn load_known(
        &self,
        list: &str,
        program: Program,
        path: &Path,
    ) -> Result<Option<Component>, Refusal> {
        match beside(Known::new(list), || Ok(program), path)? {
            None => Ok(None),
            Some(found) => {
                let authority = Authority::Program(found.proof);
                self.load(&unpacked(found.bytes)?, &authority).map(Some)
            }
        }
    }

    fn cache(&self) -> CodeCache {
        CodeCache::new(self.directory.path().to_owned(), key(7))
    }

    fn stored(&self) -> PathBuf {
        let code = code(&self.engine, &self.plugin);
        self.cache()
            .store(&self.plugin.digest, &self.id, &code)
            .unwrap()
    }

    fn load_cached(&self) -> Result<Option<Component>, Refusal> {
        self.cache()
            .load(&self.engine, &self.id, &self.plugin.digest)
    }
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[track_caller]
fn refusal<T>(result: Result<T, Refusal>) -> Refusal {
    match result {
        Ok(_) => panic!("it was taken"),
        Err(refusal) => refusal,
    }
}

/// Makes something at a path.
type Making<'a> = Box<dyn Fn() + 'a>;

/// One number stands for all kinds of files that are no regular ones.
fn no_files(path: &Path) -> Vec<(&'static str, Making<'_>)> {
    vec![
        (
            "a directory",
            Box::new(move || fs::create_dir(path).unwrap()),
        ),
        (
            "a symbolic link",
            Box::new(move || {
                let target = path.with_extension("elsewhere");
                fs::write(&target, b"").unwrap();
                symlink(&target, path).unwrap();
            }),
        ),
        (
            "a FIFO that nobody writes to",
            Box::new(move || assert!(Command::new("mkfifo").arg(path).status().unwrap().success())),
        ),
    ]
}

#[test]
fn code_loads_beside_the_program_and_from_the_cache() {
    let stage = Stage::new();
    let path = stage.file_beside(&stage.sealed(None));
    assert!(stage.load_beside(stage.program(), &path).unwrap().is_some());
    assert!(
        stage.load_cached().unwrap().is_none(),
        "nothing is kept yet"
    );
    assert_eq!(
        stage.stored(),
        stage.cache().path_of(&stage.plugin.digest, &stage.id)
    );
    assert!(stage.load_cached().unwrap().is_some());
    let gone = stage.directory.path().join("no/x.cwasm");
    assert!(stage.load_beside(stage.program(), &gone).unwrap().is_none());
}

#[test]
fn one_changed_byte_anywhere_is_noticed() {
    let stage = Stage::new();
    let key = key(7);
    let path = stage.file_beside(&stage.sealed(None));
    let found = beside(Known::new(""), || Ok(stage.program()), &path);
    let program = Authority::Program(found.unwrap().unwrap().proof);
    for (authority, whole) in [
        (program, stage.sealed(None)),
        (Authority::Key(&key), stage.sealed(Some(&key))),
    ] {
        assert!(stage.load(&whole, &authority).is_ok());
        // Every byte behind the code, and a sample of the code, which is checked as one.
        let tail = whole.len() - 512;
        for place in (0..tail).step_by(61).chain(tail..whole.len()) {
            for bit in [0x01, 0x80] {
                let mut changed = whole.clone();
                changed[place] ^= bit;
                assert!(stage.load(&changed, &authority).is_err(), "byte {place}");
            }
        }
    }
}

#[test]
fn compressed_code_beside_the_program_loads_and_damage_to_it_is_noticed() {
    let stage = Stage::new();
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(&stage.sealed(None)).unwrap();
    let packed = packed.finish().unwrap();
    let path = stage.file_beside(&packed);
    assert!(stage.load_beside(stage.program(), &path).unwrap().is_some());
    for damaged in [
        packed[..packed.len() / 2].to_vec(),
        packed[..12].to_vec(),
        [&packed[..20], &[0xff; 8][..], &packed[28..]].concat(),
    ] {
        let path = stage.file_beside(&damaged);
        assert!(stage.load_beside(stage.program(), &path).is_err());
    }
}

#[test]
fn a_file_that_is_cut_short_or_goes_on_is_refused() {
    let stage = Stage::new();
    let key = key(7);
    let whole = stage.sealed(Some(&key));
    let authority = Authority::Key(&key);
    for length in [0, 1, 8, 44, 45, whole.len() / 2, whole.len() - 1] {
        let refusal = refusal(stage.load(&whole[..length], &authority));
        assert!(matches!(refusal, Refusal::NoRecord), "{length}: {refusal}");
    }
    let longer = [&whole[..], b"x"].concat();
    assert!(matches!(
        refusal(stage.load(&longer, &authority)),
        Refusal::NoRecord
    ));
    // The right end behind other code.
    let moved = [b"x", &whole[..]].concat();
    assert!(matches!(
        refusal(stage.load(&moved, &authority)),
        Refusal::Changed
    ));
}

#[test]
fn code_of_another_plugin_is_refused() {
    let stage = Stage::new();
    let other = plugin(2);
    let sealed = plugin_engine::seal(code(&stage.engine, &other), &other.digest, &stage.id, None);
    let path = stage.file_beside(&sealed);
    let refusal = refusal(stage.load_beside(stage.program(), &path));
    assert!(refusal.to_string().contains(&other.digest), "{refusal}");
}

#[test]
fn code_of_another_engine_is_refused_and_its_maker_is_named() {
    let stage = Stage::new();
    let key = key(7);
    let mut config = wasmtime::Config::new();
    config.epoch_interruption(false);
    let other = Engine::new(&config).unwrap();
    let foreign = code(&other, &stage.plugin);
    let sealed = plugin_engine::seal(
        foreign.clone(),
        &stage.plugin.digest,
        &EngineId::of(&[("epoch-interruption", false)]),
        Some(key.bytes()),
    );
    let told = refusal(stage.load(&sealed, &Authority::Key(&key))).to_string();
    assert!(
        told.contains(env!("CARGO_PKG_VERSION")) && told.contains(plugin_engine::target()),
        "{told}"
    );
    // A record that is wrong about the engine: what the engine itself can tell, it tells.
    let wrong = plugin_engine::seal(foreign, &stage.plugin.digest, &stage.id, Some(key.bytes()));
    let refusal = refusal(stage.load(&wrong, &Authority::Key(&key)));
    assert!(matches!(refusal, Refusal::Declined(_)), "{refusal}");
}

#[test]
fn only_the_key_that_made_a_record_opens_it() {
    let stage = Stage::new();
    let mine = key(7);
    for foreign in [stage.sealed(Some(&key(8))), stage.sealed(None)] {
        let refusal = refusal(stage.load(&foreign, &Authority::Key(&mine)));
        assert!(matches!(refusal, Refusal::NotAuthentic), "{refusal}");
    }
    // Nor does a cache's file count beside the program.
    let path = stage.file_beside(&stage.sealed(Some(&mine)));
    let refusal = refusal(stage.load_beside(stage.program(), &path));
    assert!(matches!(refusal, Refusal::Damaged), "{refusal}");
}

#[test]
fn beside_the_program_only_its_owners_files_count() {
    let stage = Stage::new();
    let path = stage.file_beside(&stage.sealed(None));
    let program = stage.program();
    let another = Program {
        owner: program.owner + 1,
        ..program
    };
    let told = refusal(stage.load_beside(another, &path));
    assert!(matches!(told, Refusal::Owner { .. }), "{told}");
    let elsewhere = Program {
        device: program.device + 1,
        ..program
    };
    let told = refusal(stage.load_beside(elsewhere, &path));
    assert!(matches!(told, Refusal::Mounted { .. }), "{told}");
    for (target, bad, good) in [
        (path.as_path(), 0o664, 0o444),
        (path.as_path(), 0o646, 0o644),
        (stage.directory.path(), 0o775, 0o755),
        (stage.directory.path(), 0o757, 0o700),
    ] {
        mode(target, bad);
        let told = refusal(stage.load_beside(program, &path));
        assert!(
            matches!(told, Refusal::Writable { mode, .. } if mode == bad),
            "{told}"
        );
        mode(target, good);
        assert!(stage.load_beside(program, &path).is_ok());
    }
}

#[test]
fn what_the_program_was_built_with_counts_whoever_owns_it() {
    let stage = Stage::new();
    let sealed = stage.sealed(None);
    let path = stage.file_beside(&sealed);
    let list = format!("x.cwasm={}", hex::encode(Sha256::digest(&sealed)));
    let strange = Program {
        owner: stage.program().owner + 1,
        device: stage.program().device + 1,
    };
    mode(&path, 0o666);
    mode(stage.directory.path(), 0o777);
    let loaded = stage.load_known(&list, strange, &path);
    assert!(loaded.unwrap().is_some());
    let gone = || Err(Refusal::Io(std::io::ErrorKind::NotFound.into()));
    let found = beside(Known::new(&list), gone, &path).unwrap();
    assert!(found.is_some(), "without its own file to compare with");
    // For what it was not built with, ownership decides as ever: another name, another byte.
    let other = list.replace("x.cwasm", "y.cwasm");
    let told = refusal(stage.load_known(&other, strange, &path));
    assert!(matches!(told, Refusal::Mounted { .. }), "{told}");
    let path = stage.file_beside(&[&sealed[..], b"x"].concat());
    let told = refusal(stage.load_known(&list, strange, &path));
    assert!(matches!(told, Refusal::Mounted { .. }), "{told}");
    mode(stage.directory.path(), 0o755);
    let path = stage.file_beside(&stage.sealed(None));
    let loaded = stage.load_known(&other, stage.program(), &path);
    assert!(loaded.unwrap().is_some());
}

#[test]
fn only_what_nobody_else_can_change_is_executed_where_it_lies() {
    let stage = Stage::new();
    let path = stage.file_beside(b"program");
    let list = format!("x.cwasm={}", hex::encode(Sha256::digest(b"program")));
    let program = stage.program();
    let elsewhere = Program {
        device: program.device + 1,
        ..program
    };
    let another = Program {
        owner: program.owner + 1,
        ..program
    };
    for (list, program, permissions, executed) in [
        ("", program, 0o755, true),
        ("", program, 0o644, false),
        ("", program, 0o744, false),
        (&list, program, 0o755, true),
        (&list, elsewhere, 0o755, true),
        (&list, another, 0o755, false),
        (&list, program, 0o775, false),
    ] {
        mode(&path, permissions);
        let found = beside(Known::new(list), || Ok(program), &path).unwrap();
        let found = found.unwrap().executable.is_some();
        assert_eq!(found, executed, "{permissions:o} {list}");
    }
}

#[test]
fn what_is_no_regular_file_is_refused_at_once() {
    let stage = Stage::new();
    let beside = stage.directory.path().join("x.cwasm");
    for (name, make) in no_files(&beside) {
        make();
        let told = refusal(stage.load_beside(stage.program(), &beside));
        assert!(matches!(told, Refusal::NotAFile), "{name}: {told}");
        fs::remove_file(&beside)
            .or_else(|_| fs::remove_dir(&beside))
            .unwrap();
    }
    let cached = stage.cache().path_of(&stage.plugin.digest, &stage.id);
    for (name, make) in no_files(&cached) {
        make();
        let told = refusal(stage.load_cached());
        assert!(matches!(told, Refusal::NotAFile), "{name}: {told}");
        fs::remove_file(&cached)
            .or_else(|_| fs::remove_dir(&cached))
            .unwrap();
    }
}

#[test]
fn a_cache_that_everybody_may_write_is_neither_read_nor_written() {
    let stage = Stage::new();
    let path = stage.stored();
    let directory = stage.directory.path();
    // Kubernetes gives a volume's group the right to write.
    mode(directory, 0o2775);
    mode(&path, 0o664);
    assert!(stage.load_cached().unwrap().is_some());
    mode(&path, 0o666);
    assert!(matches!(
        refusal(stage.load_cached()),
        Refusal::Writable { what: "it", .. }
    ));
    mode(&path, 0o644);
    for bad in [0o777, 0o1777] {
        mode(directory, bad);
        let told = refusal(stage.load_cached());
        assert!(matches!(told, Refusal::Writable { .. }), "{told}");
        let told = refusal(
            stage
                .cache()
                .store(&stage.plugin.digest, &stage.id, b"code"),
        );
        assert!(matches!(told, Refusal::Writable { .. }), "{told}");
    }
    mode(directory, 0o755);
    assert!(stage.load_cached().unwrap().is_some());
}

#[test]
fn a_cache_belongs_to_root_or_to_us() {
    let own = rustix::process::geteuid().as_raw();
    assert!(check_owner("it", 0, None).is_ok());
    assert!(check_owner("it", own, None).is_ok());
    assert!(check_owner("it", own + 4711, Some(own + 4711)).is_ok());
    let told = refusal(check_owner("it", own + 4711, Some(0)));
    assert!(matches!(told, Refusal::Owner { .. }), "{told}");
}

#[test]
fn writers_and_readers_at_once_never_meet_half_a_file() {
    let stage = Stage::new();
    let code = code(&stage.engine, &stage.plugin);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..25 {
                    stage
                        .cache()
                        .store(&stage.plugin.digest, &stage.id, &code)
                        .unwrap();
                }
            });
            scope.spawn(|| {
                for _ in 0..50 {
                    stage.load_cached().unwrap();
                }
            });
        }
    });
    let left = fs::read_dir(stage.directory.path()).unwrap().count();
    assert_eq!(left, 1, "a temporary file was left");
}

#[test]
fn a_key_lies_where_nobody_else_can_write() {
    let stage = Stage::new();
    let cache = stage.directory.path().join("cache");
    let workspace = stage.directory.path().join("workspace");
    fs::create_dir(&cache).unwrap();
    fs::create_dir(&workspace).unwrap();
    let place = |directory: &Path, bytes: &[u8], permissions: u32| {
        let path = directory.join("key");
        fs::write(&path, bytes).unwrap();
        mode(&path, permissions);
        path
    };
    let open = |key: &Path| CodeCache::open(&cache, key, Some(&workspace));
    let good = place(stage.directory.path(), &[7; 32], 0o644);
    assert!(open(&good).is_ok());
    // As Kubernetes mounts a Secret.
    let link = stage.directory.path().join("link");
    symlink(&good, &link).unwrap();
    assert!(open(&link).is_ok());
    for (path, word) in [
        (place(&cache, &[7; 32], 0o600), "lies in the cache"),
        (place(&workspace, &[7; 32], 0o600), "lies in the workspace"),
        (stage.directory.path().join("none"), "cannot find"),
        (stage.directory.path().to_owned(), "is not a file"),
    ] {
        let message = open(&path).unwrap_err().message;
        assert!(message.contains(word), "{message}");
    }
    for (bytes, permissions, word) in [
        (&[7; 31][..], 0o600, "fewer than 32 bytes"),
        (&[7; 5000], 0o600, "too long"),
        (&[7; 32], 0o602, "written by everybody"),
    ] {
        let path = place(stage.directory.path(), bytes, permissions);
        let message = open(&path).unwrap_err().message;
        assert!(message.contains(word), "{message}");
    }
}

#[test]
fn a_key_is_not_shown() {
    let shown = format!(
        "{:?}",
        CacheKey::new(b"0123456789abcdef0123456789abcdef".to_vec())
    );
    assert!(
        !shown.contains("abcdef") && !shown.contains("97, 98"),
        "{shown}"
    );
}
