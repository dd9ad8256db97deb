//! The web server where the distribution's is not installed: one thread per connection.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener},
};

/// The hidden command that runs it.
pub const COMMAND: &str = "lab-web";

/// Answers every request with `name` until the process is killed.
///
/// # Errors
/// The port cannot be had.
pub fn serve(name: &str, address: SocketAddr) -> std::io::Result<()> {
    let length = name.len() + 1;
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{name}\n");
    for client in TcpListener::bind(address)?.incoming() {
        let (client, answer) = (client?, answer.clone());
        std::thread::Builder::new().stack_size(128 * 1024).spawn(move || {
            let mut lines = BufReader::new(&client).lines();
            // A client that went away ends its conversation, nothing else.
            while let Some(Ok(line)) = lines.next() {
                if line.is_empty() && (&client).write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
        })?;
    }
    Ok(())
}
