//! Is a module Ready on another machine? Asks that machine's health page.

use std::time::Duration;

use havre_core::checks::probe::Finding;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// How long a question without a limit of its own may take.
const LIMIT_DEFAULT: Duration = Duration::from_secs(5);
/// What is read of an answer: its first line and headers.
const ANSWER_BYTES_MAX: usize = 4 * 1024;

/// Asks `addr` for `/var/modules/NAME/ready.txt`.
///
/// The page does not tell how often the application was started, so that a restart over there is
/// noticed only if it lasts until the next question.
pub async fn module(name: &str, addr: &str, port: u16, limit: Option<Duration>) -> Finding {
    let limit = limit.unwrap_or(LIMIT_DEFAULT);
    match timeout(limit, ask(name, addr, port)).await {
        Ok(Ok(ready)) => Finding::Module { ready, starts: 0 },
        Ok(Err(error)) => Finding::Down(error),
        Err(_) => Finding::Down(format!("no answer within {} ms", limit.as_millis())),
    }
}

async fn ask(name: &str, addr: &str, port: u16) -> Result<bool, String> {
    let text = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect((addr, port)).await.map_err(text)?;
    let request = format!(
        "GET /var/modules/{name}/ready.txt HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.map_err(text)?;
    let mut answer = Vec::new();
    let mut limited = stream.take(ANSWER_BYTES_MAX as u64);
    limited.read_to_end(&mut answer).await.map_err(text)?;
    let line = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
    match String::from_utf8_lossy(line).split_whitespace().nth(1) {
        Some("200") => Ok(true),
        Some("404") => Ok(false),
        Some(status) => Err(format!("{addr}:{port} answered {status}")),
        None => Err(format!("{addr}:{port} does not speak HTTP")),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{net::TcpListener, runtime::Builder};

    use super::*;

    /// Asks a server that answers with `answer` to anything.
    fn asked(answer: &'static str) -> Finding {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let port = listener.local_addr().expect("it is bound").port();
            let server = async {
                let (mut stream, _) = listener.accept().await.expect("the question comes");
                let mut request = [0; 256];
                let length = stream.read(&mut request).await.expect("it is readable");
                assert!(request[..length].starts_with(b"GET /var/modules/db/ready.txt HTTP/1.1"));
                stream.write_all(answer.as_bytes()).await.expect("it is writable");
            };
            tokio::join!(module("db", "127.0.0.1", port, Some(Duration::from_secs(2))), server).0
        })
    }

    #[test]
    fn the_health_page_says_whether_the_module_is_ready() {
        let ready = asked("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        assert_eq!(ready, Finding::Module { ready: true, starts: 0 });
        let not = asked("HTTP/1.1 404 Not Found\r\n\r\n");
        assert_eq!(not, Finding::Module { ready: false, starts: 0 });
        assert!(matches!(asked("SSH-2.0-x\r\n"), Finding::Down(_)));
        assert!(matches!(asked("HTTP/1.1 500 x\r\n\r\n"), Finding::Down(_)));
    }
}
