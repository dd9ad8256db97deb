//! A client of PostgreSQL with just what a demonstration needs: simple queries as a trusted user.
//!
//! Source: PostgreSQL 15 manual, chapter 55 "Frontend/Backend Protocol", sections 55.2, 55.7.

use std::{
    io::{self, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use rustix::net::sockopt;

use crate::demo::workload::Connection;

/// Version 3.0 of the protocol.
const VERSION: u32 = 3 << 16;
/// Longest message that the server may send.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
const AUTHENTICATION: u8 = b'R';
const DATA_ROW: u8 = b'D';
const ERROR: u8 = b'E';
const READY: u8 = b'Z';
const QUERY: u8 = b'Q';

/// One session.
#[derive(Debug)]
pub(super) struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    /// Opens a session in the database named like the user.
    pub(super) fn connect(address: SocketAddr, user: &str, limit: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, limit)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        // Bytes that the other end does not confirm in time end the connection.
        let milliseconds = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
        sockopt::set_tcp_user_timeout(&stream, milliseconds)?;
        let mut client = Self { reader: BufReader::new(stream) };
        let mut greeting = VERSION.to_be_bytes().to_vec();
        greeting.extend_from_slice(format!("user\0{user}\0database\0{user}\0\0").as_bytes());
        client.send(None, &greeting)?;
        client.until_ready()?;
        Ok(client)
    }

    /// Runs one statement in a transaction of its own; returns the first column of its rows. When
    /// this returns without error, the transaction is committed.
    fn query(&mut self, statement: &str) -> io::Result<Vec<String>> {
        let mut body = statement.as_bytes().to_vec();
        body.push(0);
        self.send(Some(QUERY), &body)?;
        self.until_ready()
    }

    fn send(&mut self, kind: Option<u8>, body: &[u8]) -> io::Result<()> {
        let length = u32::try_from(body.len() + 4).map_err(io::Error::other)?;
        let mut message: Vec<u8> = kind.into_iter().collect();
        message.extend_from_slice(&length.to_be_bytes());
        message.extend_from_slice(body);
        self.reader.get_mut().write_all(&message)
    }

    fn receive(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut head = [0; 5];
        self.reader.read_exact(&mut head)?;
        let [kind, length @ ..] = head;
        let length = u32::from_be_bytes(length) as usize;
        if !(4..=MESSAGE_BYTES_MAX).contains(&length) {
            return Err(io::Error::other("a message of impossible length"));
        }
        let mut body = vec![0; length - 4];
        self.reader.read_exact(&mut body)?;
        Ok((kind, body))
    }

    /// Reads messages until the server waits for the next statement.
    fn until_ready(&mut self) -> io::Result<Vec<String>> {
        let mut rows = Vec::new();
        loop {
            let (kind, body) = self.receive()?;
            match kind {
                READY => return Ok(rows),
                ERROR => {
                    return Err(io::Error::other(String::from_utf8_lossy(&body).into_owned()));
                }
                AUTHENTICATION if body != [0; 4] => {
                    return Err(io::Error::other("the server wants a password"));
                }
                DATA_ROW => rows.push(first_column(&body).unwrap_or_default()),
                _ => {}
            }
        }
    }
}

/// The text of the first column; `None` if it is null or cut off.
fn first_column(body: &[u8]) -> Option<String> {
    let length: [u8; 4] = body.get(2..6)?.try_into().ok()?;
    let length = usize::try_from(i32::from_be_bytes(length)).ok()?;
    Some(String::from_utf8_lossy(body.get(6..6 + length)?).into_owned())
}

impl Connection for Client {
    fn append(&mut self, text: &str) -> io::Result<()> {
        let text = text.replace('\'', "''");
        self.query(&format!("INSERT INTO records VALUES ('{text}')")).map(drop)
    }

    fn read(&mut self) -> io::Result<Vec<String>> {
        // Once through the table and not through an index that could hide a loss.
        self.query("SET enable_indexscan = off")?;
        self.query("SELECT record FROM records")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_column_of_any_row_is_read_without_panic() {
        let row = [&[0, 1][..], &4_i32.to_be_bytes(), b"word"].concat();
        assert_eq!(first_column(&row).as_deref(), Some("word"));
        for end in 0..row.len() {
            assert_eq!(first_column(&row[..end]), None);
        }
        let null = [&[0, 1][..], &(-1_i32).to_be_bytes()].concat();
        assert_eq!(first_column(&null), None);
    }
}
