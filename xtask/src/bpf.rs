//! `cargo xtask bpf`: builds the packet filter's program for the kernel and compares it, byte for
//! byte, with the object that is committed, so that nobody has to trust a binary.
//!
//! `BUILDINFO` beside the object names toolchain and command, and the digests of the object and
//! of everything it is made of: an ordinary test (below) sees a changed source whose object was
//! not rebuilt, without any toolchain for the kernel.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use ring::digest::{Context as Digest, SHA256};

const OBJECT: &str = "ebpf/prebuilt/filter.bpf.o";
const BUILDINFO: &str = "ebpf/prebuilt/BUILDINFO";
const PROGRAM: &str = "ebpf/program";
const TARGET: &str = "bpfel-unknown-none";
/// Sources of the library that the program does not contain.
const APART: [&str; 2] = ["tests.rs", "frames.rs"];
/// Exit code of the toolchain's script when the sources of core cannot be had.
const UNAVAILABLE: i32 = 3;

/// How the comparison ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    /// The object is what its sources give.
    Equal,
    /// The toolchain could not be had; the text says why.
    Skipped(String),
}

/// Builds the object and compares it with the committed one.
pub(crate) fn check(root: &Path) -> Result<Comparison> {
    let info = Buildinfo::read(root)?;
    let present = rustc_version(root)?;
    if info.rustc != present {
        let text = format!("the object was built by {}, here is {present}", info.rustc);
        return Ok(Comparison::Skipped(text));
    }
    let Some(built) = build(root)? else {
        return Ok(Comparison::Skipped("its toolchain cannot be had here".to_owned()));
    };
    let committed = fs::read(root.join(OBJECT)).with_context(|| format!("no {OBJECT}"))?;
    if built != committed {
        bail!(
            "{OBJECT} is not what its sources give: {} built, {} committed; review the sources, \
             then run cargo xtask bpf --write",
            digest(&built),
            digest(&committed)
        );
    }
    Ok(Comparison::Equal)
}

/// Builds the object and replaces the committed one.
pub(crate) fn write(root: &Path) -> Result<()> {
    let Some(built) = build(root)? else { bail!("the toolchain cannot be had here") };
    fs::write(root.join(OBJECT), &built).with_context(|| format!("cannot write {OBJECT}"))?;
    let info = Buildinfo {
        rustc: rustc_version(root)?,
        linker: linker_version(root)?,
        object: digest(&built),
        sources: sources_digest(root)?,
    };
    fs::write(root.join(BUILDINFO), info.text())
        .with_context(|| format!("cannot write {BUILDINFO}"))
}

/// What `BUILDINFO` says.
#[derive(Debug, PartialEq, Eq)]
struct Buildinfo {
    rustc: String,
    linker: String,
    object: String,
    sources: String,
}

impl Buildinfo {
    fn text(&self) -> String {
        format!(
            "# Written by `cargo xtask bpf --write`.\nrustc = \"{}\"\nlinker = \"{}\"\n\
             command = \"RUSTC_BOOTSTRAP=1 cargo build --release --locked --target {TARGET}\"\n\
             object_sha256 = \"{}\"\nsources_sha256 = \"{}\"\n",
            self.rustc, self.linker, self.object, self.sources
        )
    }

    fn read(root: &Path) -> Result<Self> {
        let text = fs::read_to_string(root.join(BUILDINFO));
        let text = text.with_context(|| format!("no {BUILDINFO}: cargo xtask bpf --write"))?;
        let table: toml::Table = text.parse().with_context(|| format!("{BUILDINFO} is broken"))?;
        let field = |name: &str| {
            let value = table.get(name).and_then(toml::Value::as_str);
            value.map(str::to_owned).with_context(|| format!("{BUILDINFO} has no {name}"))
        };
        Ok(Self {
            rustc: field("rustc")?,
            linker: field("linker")?,
            object: field("object_sha256")?,
            sources: field("sources_sha256")?,
        })
    }
}

/// Builds the object; `None` if its toolchain cannot be had.
fn build(root: &Path) -> Result<Option<Vec<u8>>> {
    let tools = tools(root);
    let script = root.join("xtask/bpf-toolchain.sh");
    let status = Command::new("sh").arg(&script).arg(&tools).current_dir(root).status();
    let status = status.with_context(|| format!("cannot run {}", script.display()))?;
    match status.code() {
        Some(0) => {}
        Some(UNAVAILABLE) => return Ok(None),
        _ => bail!("{} ended with {status}", script.display()),
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let paths = std::iter::once(tools.join("bin")).chain(std::env::split_paths(&path));
    let target_dir = tools.join("target");
    let status = Command::new("cargo")
        .args(["build", "--quiet", "--release", "--locked", "--target", TARGET])
        .current_dir(root.join(PROGRAM))
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("PATH", std::env::join_paths(paths).context("a directory name with a colon")?)
        // The program uses inline assembly for its instruction set, which is not stable yet.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", &target_dir)
        .env(
            "CARGO_TARGET_BPFEL_UNKNOWN_NONE_RUSTFLAGS",
            format!("--sysroot {}", tools.join("sysroot").display()),
        )
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("building the program ended with {status}");
    }
    let place = target_dir.join(TARGET).join("release/havre-filter");
    fs::read(&place).map(Some).with_context(|| format!("no {}", place.display()))
}

/// Where the toolchain is kept: `HAVRE_BPF_TOOLS`, else below the build directory.
fn tools(root: &Path) -> PathBuf {
    match std::env::var_os("HAVRE_BPF_TOOLS") {
        Some(place) => PathBuf::from(place),
        None => root.join("target/bpf-tools"),
    }
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} ended with {}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn rustc_version(root: &Path) -> Result<String> {
    output(Command::new("rustc").arg("--version").current_dir(root))
}

fn linker_version(root: &Path) -> Result<String> {
    let version = output(Command::new(tools(root).join("bin/bpf-linker")).arg("--version"))?;
    // The first line is name and version; what follows is about the machine.
    Ok(version.lines().next().unwrap_or_default().to_owned())
}

fn digest(bytes: &[u8]) -> String {
    hex(ring::digest::digest(&SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The digest of everything the object is made of: names and contents, in the order of names.
fn sources_digest(root: &Path) -> Result<String> {
    let mut files = Vec::new();
    collect(&root.join("ebpf/src"), &mut files)?;
    files.push(root.join(PROGRAM).join("Cargo.toml"));
    files.push(root.join(PROGRAM).join("Cargo.lock"));
    files.push(root.join("rust-toolchain.toml"));
    files.sort();
    let mut all = Digest::new(&SHA256);
    for file in files {
        let name = file.strip_prefix(root).expect("collected below the root");
        let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        all.update(name.to_string_lossy().as_bytes());
        all.update(&[0]);
        all.update(&(bytes.len() as u64).to_be_bytes());
        all.update(&bytes);
    }
    Ok(hex(all.finish().as_ref()))
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let entry = entry?;
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() {
            collect(&path, files)?;
        } else if !APART.iter().any(|apart| name == *apart) {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_object_is_the_one_that_buildinfo_names() {
        let info = Buildinfo::read(&crate::root()).expect("BUILDINFO is readable");
        let object = fs::read(crate::root().join(OBJECT)).expect("the object is committed");
        assert_eq!(digest(&object), info.object, "cargo xtask bpf --write");
    }

    #[test]
    fn the_committed_object_was_built_from_the_present_sources() {
        let info = Buildinfo::read(&crate::root()).expect("BUILDINFO is readable");
        let sources = sources_digest(&crate::root()).expect("the sources are readable");
        assert_eq!(sources, info.sources, "changed since: cargo xtask bpf --write");
    }

    #[test]
    fn buildinfo_reads_back_as_it_was_written() {
        let word = |text: &str| text.to_owned();
        let info = Buildinfo {
            rustc: word("rustc 1.0.0 (a b)"),
            linker: word("bpf-linker 0"),
            object: word("00"),
            sources: word("11"),
        };
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir_all(dir.path().join("ebpf/prebuilt")).expect("a directory");
        fs::write(dir.path().join(BUILDINFO), info.text()).expect("a file");
        assert_eq!(Buildinfo::read(dir.path()).expect("readable"), info);
    }
}
