//! The commands that scripts call as `$SAFE/safekit ...`: links to this program, so that scripts
//! written for SafeKit run unchanged.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use super::ScriptPlace;

/// Names under which scripts may call this program.
const NAMES: [&str; 2] = ["safekit", "havre"];

/// Puts the commands where the scripts of a module look for them.
///
/// # Errors
/// A directory or link cannot be made.
pub(super) fn put(place: &ScriptPlace) -> io::Result<()> {
    let program = std::env::current_exe()?;
    for dir in [&place.safe, &place.safe_bin] {
        fs::create_dir_all(dir)?;
        for name in NAMES {
            link(&dir.join(name), &program)?;
        }
    }
    Ok(())
}

/// Makes `link` lead to `program`. It is there at every moment if it was there before: a script of
/// another module may be calling it.
fn link(link: &Path, program: &Path) -> io::Result<()> {
    if fs::read_link(link).is_ok_and(|found| found == program) {
        return Ok(());
    }
    let mut new = link.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(program, &new)?;
    fs::rename(&new, link)
}
