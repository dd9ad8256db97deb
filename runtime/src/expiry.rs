//! Tells users of a certificate that ends soon, long before replication stops because of it.

use std::{rc::Rc, sync::Weak, time::Duration};

use havre_core::event::{Event, EventKind};

use crate::{
    events::{report::Reporter, time::unix_ms},
    transport::tls::StreamSecurity,
};

/// Rest of a certificate's life from which it is told, in seconds: half a year.
const WARNING_S: i64 = 180 * 86_400;
/// How often it is looked at.
const PERIOD: Duration = Duration::from_secs(86_400);

/// Looks at the end of this node's certificate now and once a day, as long as there is somebody
/// to report to.
pub(crate) async fn keep(security: Rc<StreamSecurity>, reporter: Weak<Reporter>) {
    while let Some(reporter) = reporter.upgrade() {
        let now_s = i64::try_from(unix_ms(std::time::SystemTime::now()) / 1_000);
        if let Some(text) = warning(&security, now_s.unwrap_or(i64::MAX)) {
            reporter.report(&Event { module: None, kind: EventKind::Failure(text) });
        }
        drop(reporter);
        tokio::time::sleep(PERIOD).await;
    }
}

/// What is to be said at this moment, in seconds since 1970.
fn warning(security: &StreamSecurity, now_s: i64) -> Option<String> {
    let rest = security.own_rest(now_s).filter(|rest| *rest < WARNING_S)?;
    let end = security.own_end();
    Some(format!(
        "the certificate of this node ends in {} days ({end}): run `havre cluster renew` on one \
         node and `havre cluster join` with the new bundles on the others, or replication stops \
         then",
        rest.max(0) / 86_400
    ))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_end_of_a_certificate_is_told_half_a_year_before() {
        let xml = "<cluster><lans><lan name=\"default\"><node name=\"node1\" addr=\"127.0.0.1\"/>\
                   <node name=\"node2\" addr=\"127.0.0.2\"/></lan></lans></cluster>";
        let now_s = 1_800_000_000;
        let made = crate::cluster::create(Path::new("c"), xml, "node1", now_s * 1_000);
        let security = made.expect("good").own.stream_security().expect("fresh");
        let now_s = i64::try_from(now_s).expect("small");
        let end = now_s + security.own_rest(now_s).expect("it has an end");
        assert_eq!(warning(&security, now_s), None);
        assert_eq!(warning(&security, end - WARNING_S), None);
        let text = warning(&security, end - WARNING_S + 1).expect("said in time");
        assert!(text.contains("ends in 179 days") && text.contains("cluster renew"), "{text}");
        assert!(warning(&security, end + 5).expect("still said").contains("ends in 0 days"));
    }
}
