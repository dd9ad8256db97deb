//! A small application for demonstrations and tests: it appends lines to a file, makes each
//! durable before it says so, and gives all of them back.
//!
//! Protocol, one line each way: `append TEXT` -> `ok`, after the line is durable; `read` -> every
//! line, then `.`; anything else -> `error REASON`. A line that a crash left half written was never
//! acknowledged and is removed when the application starts again.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use rustix::net::sockopt;

/// The hidden command that runs the application.
pub const COMMAND: &str = "ledger";
/// Longest line of a client.
const LINE_BYTES_MAX: u64 = 64 * 1024;
/// End of the answer to `read`.
const END: &str = ".";

/// Serves one ledger until the process is killed.
///
/// # Errors
/// The file cannot be opened or repaired, or the port cannot be had.
pub fn serve(path: &Path, address: SocketAddr) -> io::Result<()> {
    let ledger = Arc::new(Ledger::open(path)?);
    let listener = TcpListener::bind(address)?;
    println!("ledger: {} lines in {}", ledger.lines()?.len(), path.display());
    for client in listener.incoming() {
        let ledger = Arc::clone(&ledger);
        let client = client?;
        thread::Builder::new().stack_size(128 * 1024).spawn(move || {
            // A client that went away ends its conversation, nothing else.
            let _ = ledger.converse(&client);
        })?;
    }
    Ok(())
}

#[derive(Debug)]
struct Ledger {
    path: PathBuf,
    file: Mutex<File>,
}

impl Ledger {
    fn open(path: &Path) -> io::Result<Self> {
        let mut file =
            OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)?;
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        let whole = content.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
        if whole < content.len() {
            file.set_len(whole as u64)?;
            file.sync_all()?;
        }
        file.seek(SeekFrom::End(0))?;
        Ok(Self { path: path.to_owned(), file: Mutex::new(file) })
    }

    fn converse(&self, client: &TcpStream) -> io::Result<()> {
        client.set_nodelay(true)?;
        let mut reader = BufReader::new(client);
        let mut writer = BufWriter::new(client);
        loop {
            let mut line = String::new();
            if reader.by_ref().take(LINE_BYTES_MAX).read_line(&mut line)? == 0 {
                return Ok(());
            }
            match line.trim_end().split_once(' ') {
                Some(("append", text)) => {
                    self.append(text);
                    writeln!(writer, "ok")?;
                }
                None if line.trim_end() == "read" => {
                    for line in self.lines()? {
                        writeln!(writer, "{line}")?;
                    }
                    writeln!(writer, "{END}")?;
                }
                _ => writeln!(writer, "error say `append TEXT` or `read`")?,
            }
            writer.flush()?;
        }
    }

    /// Appends a line durably.
    ///
    /// A disk that fails ends the application: what it holds afterwards is known only to the next
    /// start (after a failed fsync the kernel forgets what was not written).
    fn append(&self, text: &str) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let line = format!("{text}\n");
        if let Err(error) = file.write_all(line.as_bytes()).and_then(|()| file.sync_data()) {
            eprintln!("ledger: {}: {error}", self.path.display());
            std::process::exit(1);
        }
    }

    fn lines(&self) -> io::Result<Vec<String>> {
        let _quiet = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        BufReader::new(File::open(&self.path)?).lines().collect()
    }
}

/// A connection to a ledger.
#[derive(Debug)]
pub struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    /// Connects within `limit`, which then also bounds each answer.
    ///
    /// # Errors
    /// Nobody listens, or not in time.
    pub fn connect(address: SocketAddr, limit: Duration) -> io::Result<Self> {
        // The kernels alone answer here. A lost request is repeated by them after a second only:
        // giving up early and asking again finds the address sooner when it moves.
        let stream = TcpStream::connect_timeout(&address, limit / 4)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        // Bytes that the other end does not confirm in time end the connection.
        let milliseconds = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
        sockopt::set_tcp_user_timeout(&stream, milliseconds)?;
        Ok(Self { reader: BufReader::new(stream) })
    }

    /// Appends a line; when this returns without error, the line is durable.
    ///
    /// # Errors
    /// The line was not acknowledged: it may or may not be there.
    pub fn append(&mut self, text: &str) -> io::Result<()> {
        self.say(&format!("append {text}\n"))?;
        match self.hear()?.as_str() {
            "ok" => Ok(()),
            other => Err(io::Error::other(other.to_owned())),
        }
    }

    /// Reads every line.
    ///
    /// # Errors
    /// The connection broke.
    pub fn read(&mut self) -> io::Result<Vec<String>> {
        self.say("read\n")?;
        let mut lines = Vec::new();
        loop {
            match self.hear()? {
                end if end == END => return Ok(lines),
                line => lines.push(line),
            }
        }
    }

    fn say(&mut self, text: &str) -> io::Result<()> {
        self.reader.get_mut().write_all(text.as_bytes())
    }

    fn hear(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        match line.strip_suffix('\n') {
            Some(line) => Ok(line.to_owned()),
            None => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_kept_and_a_torn_one_is_removed() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("ledger");
        let ledger = Ledger::open(&path).expect("opens");
        ledger.append("one");
        ledger.append("two");
        drop(ledger);
        let mut file = OpenOptions::new().append(true).open(&path).expect("opens");
        file.write_all(b"thr").expect("writes");
        let ledger = Ledger::open(&path).expect("opens again");
        ledger.append("four");
        assert_eq!(ledger.lines().expect("reads"), ["one", "two", "four"]);
    }

    #[test]
    fn a_client_appends_and_reads_back() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let ledger = Ledger::open(&directory.path().join("ledger")).expect("opens");
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("bound");
        thread::scope(|scope| {
            scope.spawn(|| ledger.converse(&listener.accept().expect("one client").0));
            let mut client = Client::connect(address, Duration::from_secs(5)).expect("connects");
            client.append("a b").expect("durable");
            client.append("c").expect("durable");
            assert_eq!(client.read().expect("reads"), ["a b", "c"]);
            let error = {
                client.say("nonsense\n").expect("sent");
                client.hear().expect("answered")
            };
            assert!(error.starts_with("error"), "{error}");
        });
    }
}
