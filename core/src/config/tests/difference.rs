//! What changed, and what may change while a module runs.

use super::*;
use crate::config::{
    difference::{changes, needs_stop},
    signature,
};

const OLD: &str = "<safe><macro name=\"D\" value=\"/data\"/><service mode=\"mirror\"><heart \
    pulse=\"700\"><heartbeat name=\"default\" ident=\"flow\"/></heart><rfs><replicated \
    dir=\"%D%\"/></rfs><user/><check><ping ident=\"gw\"><to addr=\"10.0.0.254\"/></ping></check>\
    </service></safe>";

fn lines(new: &str) -> Vec<String> {
    changes(OLD, new, &BTreeMap::new()).iter().map(ToString::to_string).collect()
}

fn stop(new: &str) -> bool {
    needs_stop(&accepted(OLD).value, &accepted(new).value)
}

#[test]
fn spelling_does_not_count_as_a_change() {
    let same = OLD.replace("700", "700ms").replace("dir=\"%D%\"", "dir=\"/data\"");
    let same = same.replace("<service ", "<service maxloop=\"3\" loop_interval=\"1d\" ");
    assert_eq!(lines(&same), Vec::<String>::new());
    assert!(!stop(&same));
}

#[test]
fn what_the_table_lets_change_needs_no_stop() {
    for (from, to, line) in [
        ("mode=\"mirror\"", "mode=\"mirror\" maxloop=\"5\"", "<service> maxloop: 3 -> 5"),
        ("pulse=\"700\"", "pulse=\"1s\"", "<service><heart> pulse: 700ms -> 1s"),
        (
            "<heart pulse=\"700\">",
            "<heart pulse=\"700\" timeout=\"10s\">",
            "<service><heart> timeout: 30s -> 10s",
        ),
        (
            "</heart>",
            "<heartbeat name=\"private\"/></heart>",
            "<service><heart><heartbeat name=\"private\">: added",
        ),
        (
            "<user/>",
            "<user><var name=\"A\" value=\"1\"/></user>",
            "<service><user><var name=\"A\">: added",
        ),
        (
            "</ping>",
            "</ping><custom ident=\"c\" when=\"prim\" exec=\"c\"/>",
            "<service><check><custom ident=\"c\">: added",
        ),
        (
            "<to addr=\"10.0.0.254\"/>",
            "<to addr=\"10.0.0.254\" interval=\"5\"/>",
            "<service><check><ping ident=\"gw\"><to addr=\"10.0.0.254\"> interval: 10s -> 5s",
        ),
    ] {
        let new = OLD.replace(from, to);
        assert_eq!(lines(&new), [line]);
        assert!(!stop(&new), "{line}");
        let digest = |text: &str| signature(&pair(), &accepted(text).value);
        assert_eq!(digest(OLD), digest(&new), "the nodes agree meanwhile: {line}");
    }
}

#[test]
fn the_rest_needs_a_stop() {
    for (from, to, line) in [
        (
            "</rfs>",
            "<replicated dir=\"/more\"/></rfs>",
            "<service><rfs><replicated dir=\"/more\">: added  (needs a stop)",
        ),
        ("<rfs>", "<rfs async=\"none\">", "<service><rfs> async: second -> none  (needs a stop)"),
        (
            "mode=\"mirror\"",
            "mode=\"mirror\" failover=\"off\"",
            "<service> failover: on -> off  (needs a stop)",
        ),
        (
            "<user/>",
            "<user/><failover><![CDATA[a: if (ping.gw == down) then stop();]]></failover>",
            "<service><failover>: added  (needs a stop)",
        ),
    ] {
        let new = OLD.replace(from, to);
        assert_eq!(lines(&new), [line]);
        assert!(stop(&new), "{line}");
    }
    let flow = OLD.replace("name=\"default\" ident=\"flow\"", "name=\"private\" ident=\"flow\"");
    assert!(stop(&flow), "the data path keeps its network");
}

#[test]
fn under_a_lease_the_time_out_needs_a_stop() {
    let text = CLUSTER.replace("</lans>", "</lans><witness addr=\"10.0.0.99\"/>");
    let cluster = cluster::parse(Path::new("c.xml"), &text).expect("the file is correct").value;
    let read = |text: &str| {
        let parsed = module::parse(Path::new("u.xml"), text, &cluster, &BTreeMap::new());
        parsed.expect("the file is correct").value
    };
    let pulse = read(&OLD.replace("pulse=\"700\"", "pulse=\"500\""));
    assert!(!needs_stop(&read(OLD), &pulse));
    let timeout = read(&OLD.replace("pulse=\"700\"", "timeout=\"20s\""));
    assert!(needs_stop(&read(OLD), &timeout));
}
