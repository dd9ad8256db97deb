//! Does a port accept a connection?

use std::time::Duration;

use havre_core::checks::probe::Finding;
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};

/// How long a question without a limit of its own may take.
const LIMIT_DEFAULT: Duration = Duration::from_secs(5);

/// Connects, and hangs up at once. Every address of a name is tried within the one limit.
pub async fn connects(addr: &str, port: u16, limit: Option<Duration>) -> Finding {
    let limit = limit.unwrap_or(LIMIT_DEFAULT);
    match timeout(limit, try_each(addr, port)).await {
        Ok(Ok(())) => Finding::Up,
        Ok(Err(error)) => Finding::Down(error),
        Err(_) => Finding::Down(format!("no answer within {} ms", limit.as_millis())),
    }
}

async fn try_each(addr: &str, port: u16) -> Result<(), String> {
    let addresses = lookup_host((addr, port)).await.map_err(|e| format!("{addr}: {e}"))?;
    let mut last = format!("{addr} has no address");
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(_) => return Ok(()),
            Err(error) => last = error.to_string(),
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use tokio::{net::TcpListener, runtime::Builder};

    use super::*;

    fn found(port: u16) -> Finding {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(connects("127.0.0.1", port, Some(Duration::from_secs(2))))
    }

    #[test]
    fn a_listener_is_up_and_a_closed_port_is_down() {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let listener =
            runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port of the loopback");
        let port = listener.local_addr().expect("it is bound").port();
        assert_eq!(found(port), Finding::Up);
        drop(listener);
        assert!(matches!(found(port), Finding::Down(_)));
    }

    #[test]
    fn a_name_that_is_none_is_down_with_the_reason() {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let limit = Some(Duration::from_millis(300));
        let finding = runtime.block_on(connects("not a name", 80, limit));
        assert!(matches!(finding, Finding::Down(_)), "{finding:?}");
    }
}
