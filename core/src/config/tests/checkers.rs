//! `<errd>`, `<check>` and `<failover>` by example.

use std::time::Duration;

use super::*;
use crate::{
    checks::rules::{RuleAction, Then},
    config::module::{
        CheckAction, CheckerConfig, CheckerKind, Class, ModuleTo, ProcAction, StartFailure,
    },
};

fn check(inside: &str) -> String {
    mirror(&format!("<check>\n{inside}\n</check>"))
}

fn proc(attributes: &str) -> String {
    mirror(&format!("<errd>\n<proc {attributes}/>\n</errd>"))
}

#[track_caller]
fn checkers(text: &str) -> Vec<CheckerConfig> {
    accepted(text).value.checks.checkers
}

#[test]
fn checkers_have_the_documented_defaults() {
    let text = check(
        "<tcp ident=\"t\" when=\"prim\"><to addr=\"10.0.0.9\" port=\"80\"/></tcp>\
         <ping ident=\"p\"><to addr=\"gw.example.org\"/></ping>\
         <intf ident=\"i\"><to local_addr=\"10.0.0.0\"/></intf>\
         <ip ident=\"a\"><to addr=\"[fd00::1]\"/></ip>\
         <custom ident=\"c\" when=\"both\" exec=\"c.sh\"/>\
         <module name=\"db\"/><module name=\"db\"><to addr=\"10.0.0.2\"/></module>\
         <splitbrain ident=\"w\" exec=\"ping\" arg=\"10.0.0.254\"/>",
    );
    let found = checkers(&text);
    let resources: Vec<String> = found.iter().map(CheckerConfig::resource).collect();
    assert_eq!(
        resources,
        [
            "tcp.t",
            "ping.p",
            "intf.i",
            "ip.a",
            "custom.c",
            "module.db",
            "module.db_10.0.0.2",
            "splitbrain.w"
        ]
    );
    let row = |c: &CheckerConfig| (c.when.to_string(), c.action);
    let rows: Vec<_> = found.iter().map(row).collect();
    let expected = [
        ("prim", CheckAction::Restart),
        ("pre", CheckAction::Wait),
        ("pre", CheckAction::Wait),
        ("prim", CheckAction::StopStart),
        ("both", CheckAction::Nothing),
        ("pre", CheckAction::Wait),
        ("pre", CheckAction::Wait),
        ("pre", CheckAction::Wait),
    ];
    assert_eq!(rows, expected.map(|(when, action)| (when.to_owned(), action)));
    let times = |c: &CheckerConfig| (c.interval.as_secs(), c.timeout.as_secs(), c.shared);
    assert!(found.iter().all(|c| times(c) == (10, 5, false)));
    assert_eq!(found[3].kind, CheckerKind::Address { addr: "fd00::1".to_owned() });
    let to = ModuleTo { addr: "10.0.0.2".to_owned(), port: 9010, secure: false };
    assert_eq!(found[6].kind, CheckerKind::Module { name: "db".to_owned(), to: Some(to) });
}

#[test]
fn every_setting_of_a_checker_reaches_its_field() {
    let text = check(
        "<tcp ident=\"t\" when=\"second\" action=\"swap\"><to addr=\"h\" port=\"81\" \
         interval=\"1m\" timeout=\"7\"/></tcp>\
         <ping ident=\"p\" shared=\"on\"><to addr=\"10.0.0.1\" interval=\"2s\"/></ping>\
         <custom ident=\"c\" when=\"pre\" action=\"wait\" exec=\"sub/c.sh\" \
         arg=\"-u 'a b' &quot;c d&quot;\"/>\
         <module ident=\"x\" name=\"db\"><to addr=\"h\" port=\"1\" secure=\"on\"/></module>",
    );
    let [tcp, ping, custom, module] = &checkers(&text)[..] else { panic!("four checkers") };
    assert_eq!(tcp.action, CheckAction::Swap);
    assert_eq!((tcp.interval, tcp.timeout), (Duration::from_mins(1), Duration::from_secs(7)));
    assert!(ping.shared);
    assert_eq!(ping.interval, Duration::from_secs(2));
    let args = ["-u", "a b", "c d"].map(str::to_owned).to_vec();
    assert_eq!(custom.kind, CheckerKind::Custom { exec: "sub/c.sh".to_owned(), args });
    assert_eq!(module.resource(), "module.x");
}

#[test]
fn actions_must_be_possible_at_their_time() {
    let tcp = |attributes: &str| {
        check(&format!("<tcp ident=\"t\" {attributes}><to addr=\"h\" port=\"80\"/></tcp>"))
    };
    assert_eq!(checkers(&tcp("when=\"pre\""))[0].action, CheckAction::Wait);
    has(
        &errors(&tcp("when=\"pre\" action=\"restart\"")),
        "u.xml:3:27: error: action=\"restart\" is not possible with when=\"pre\", which is at work \
         before the application starts (write action=\"wait\" or \"noaction\", or another when)",
    );
    has(&errors(&tcp("when=\"prim\" action=\"wait\"")), "is possible with when=\"pre\" only");
    let ping = check("<ping ident=\"p\" when=\"prim\"><to addr=\"h\"/></ping>");
    has(&errors(&ping), "action=\"wait\", the default, is possible with when=\"pre\" only");
    has(
        &errors(&tcp("when=\"pre\" action=\"noaction\" shared=\"on\"")),
        "shared=\"on\" is possible with when=\"pre\" and action=\"wait\" only",
    );
}

#[test]
fn resources_are_unique_and_programs_stay_in_bin() {
    let ping = "<ping ident=\"p\"><to addr=\"h\"/></ping>";
    has(&errors(&check(&format!("{ping}{ping}"))), "two checkers keep the resource ping.p");
    let custom =
        |attributes: &str| check(&format!("<custom ident=\"c\" when=\"pre\" {attributes}/>"));
    has(&errors(&custom("exec=\"../x\"")), "exec=\"../x\" has a .. in it");
    has(&errors(&custom("exec=\"x\" arg=\"'a\"")), "arg: a quote is not closed");
}

#[test]
fn virtual_addresses_bring_checkers_with_them_unless_told_otherwise() {
    let vip = |interface: &str, address: &str| {
        mirror(&format!(
            "<vip><interface_list><interface {interface}><real_interface><virtual_addr \
             addr=\"10.0.3.9\" {address}/></real_interface></interface></interface_list></vip>"
        ))
    };
    let names = |text: &str| -> Vec<String> {
        checkers(text).iter().map(CheckerConfig::resource).collect()
    };
    assert_eq!(names(&vip("", "netmask=\"255.255.0.0\"")), ["intf.10.0.0.0", "ip.10.0.3.9"]);
    assert_eq!(names(&vip("name=\"eth0\"", "")), ["intf.eth0", "ip.10.0.3.9"]);
    assert_eq!(names(&vip("", "")), ["intf.10.0.3.9", "ip.10.0.3.9"]);
    assert_eq!(names(&vip("check=\"off\"", "check=\"off\"")), Vec::<String>::new());
    let found = checkers(&vip("", ""));
    assert_eq!((&found[0].when, found[0].action), (&Class::Pre, CheckAction::Wait));
    assert_eq!((&found[1].when, found[1].action), (&Class::Prim, CheckAction::StopStart));
    let own = "<check><ip ident=\"10.0.3.9\" when=\"both\"><to addr=\"10.0.3.9\" interval=\"3\"/>\
               </ip></check></service>";
    let found = checkers(&vip("", "").replace("</service>", own));
    assert_eq!(found.len(), 2, "what the file says about the same resource wins");
    assert_eq!(found[0].interval, Duration::from_secs(3));
}

#[test]
fn roles_of_a_mirror_do_not_exist_in_a_farm() {
    let farm = |inside: &str| {
        format!(
            "<safe><service mode=\"farm\"><farm><lan name=\"default\"/></farm>{inside}<user/>\
             </service></safe>"
        )
    };
    let tcp = "<check><tcp ident=\"t\" when=\"prim\"><to addr=\"h\" port=\"1\"/></tcp></check>";
    has(
        &errors(&farm(tcp)),
        "error: when=\"prim\" never is at work in mode=\"farm\", which has no such role (write",
    );
    let errd = "<errd><proc name=\"p\" class=\"second\"/></errd>";
    has(&errors(&farm(errd)), "class=\"second\" never is at work");
    let ip = "<check><ip ident=\"a\"><to addr=\"10.0.0.1\"/></ip></check>";
    assert_eq!(checkers(&farm(ip))[0].when, Class::Both);
    let failing = farm("").replace("mode=\"farm\"", "mode=\"farm\" onstartfailure=\"failover\"");
    has(&errors(&failing), "onstartfailure=\"failover\" belongs to a mirror");
}

#[test]
fn processes_have_the_documented_defaults_and_every_setting_reaches_its_field() {
    let errd =
        accepted(&proc("name=\"postgres\" class=\"prim\"")).value.checks.errd.expect("<errd>");
    assert_eq!(errd.poll, Duration::from_secs(30));
    let p = &errd.procs[0];
    assert_eq!((p.name.as_str(), p.service, &p.class), ("postgres", false, &Class::Prim));
    assert_eq!((&p.action, p.at_least, p.at_max), (&ProcAction::StopStart, Some(1), None));
    assert_eq!((&p.name_regex, &p.arg_regex, p.start_after), (&None, &None, 0));

    let text = proc(
        "name=\"any\" service=\"no\" nameregex=\"^post\" argregex=\"-D */srv\" class=\"mine\" \
         action=\"repair.sh\" atleast=\"2\" atmax=\"5\" start_after=\"3\"",
    )
    .replace("<errd>", "<errd polltimer=\"5\">");
    let errd = accepted(&text).value.checks.errd.expect("<errd>");
    assert_eq!(errd.poll, Duration::from_secs(5));
    let p = &errd.procs[0];
    assert_eq!(p.class, Class::User("mine".to_owned()));
    assert_eq!(p.action, ProcAction::Handler("repair.sh".to_owned()));
    assert_eq!((p.at_least, p.at_max, p.start_after), (Some(2), Some(5), 3));
    assert_eq!(p.name_regex.as_deref(), Some("^post"));
    let service = proc(
        "name=\"nginx\" service=\"yes\" class=\"both\" action=\"restart\" \
         restart_services=\"nginx\"",
    );
    let p = &accepted(&service).value.checks.errd.expect("<errd>").procs[0];
    assert!(p.service);
    assert_eq!(p.restart_services.as_deref(), Some("nginx"));
}

#[test]
fn processes_that_could_never_match_or_always_act_are_reported() {
    let p = |attributes: &str| proc(&format!("class=\"prim\" {attributes}"));
    has(
        &notices(&p("name=\"a-very-long-command\"")),
        "warning: Linux keeps 15 bytes of a command's name: \"a-very-long-com\" is looked for",
    );
    assert!(notices(&p("name=\"a-very-long-service\" service=\"yes\"")).len() <= 1);
    has(&errors(&p("name=\"/usr/bin/x\"")), "a path is not a command's name");
    has(&errors(&p("name=\"x\" atmax=\"1\"")), "any number of instances causes the action");
    let none = accepted(&p("name=\"x\" atmax=\"0\"")).value.checks.errd.expect("<errd>");
    assert_eq!((none.procs[0].at_least, none.procs[0].at_max), (None, Some(0)));
    has(&errors(&p("name=\"x\" action=\"wait\"")), "is not possible for a process");
    has(&notices(&p("name=\"x\" action=\"restrat\"")), "did you mean \"restart\"?");
    has(&errors(&p("name=\"x\" action=\"../x\"")), "leads out of bin");
    has(&errors(&p("name=\"x\" restart_services=\"x\"")), "restart_services has no effect here");
    has(&errors(&p("name=\"x\" argregex=\"(a)\\1\"")), "backreferences are not supported");
    let twice =
        mirror("<errd><proc name=\"x\" class=\"prim\"/><proc name=\"x\" class=\"pre\"/></errd>");
    has(&errors(&twice), "two <proc> are called x");
    let lonely = p("name=\"x\"").replace("<user/>", "");
    has(&errors(&lonely), "<errd> without <user>");
}

#[test]
fn loop_guard_and_failing_start_scripts_have_settings_of_their_own() {
    let with = |attributes: &str| {
        let text = mirror("").replace("mode=\"mirror\"", &format!("mode=\"mirror\" {attributes}"));
        accepted(&text).value.service
    };
    let service = with("");
    assert_eq!((service.maxloop_retry, service.on_start_failure), (None, StartFailure::Ignore));
    let service = with("maxloop_retry=\"5m\" onstartfailure=\"stop\"");
    assert_eq!(service.maxloop_retry, Some(Duration::from_mins(5)));
    assert_eq!(service.on_start_failure, StartFailure::Stop);
    assert_eq!(with("maxloop_retry=\"off\"").maxloop_retry, None);
    let wrong = mirror("").replace("mode=\"mirror\"", "mode=\"mirror\" maxloop_retry=\"soon\"");
    has(&errors(&wrong), "maxloop_retry=\"soon\" is not a time");
}

#[test]
fn rules_keep_their_order_and_faults_have_their_place_in_the_file() {
    let ping = "<check><ping ident=\"gw\"><to addr=\"h\"/></ping></check>";
    let text = mirror(&format!(
        "{ping}<failover period=\"1s\" handle_time=\"3s\">\n<![CDATA[a: if (ping.gw == down) then \
         wait();\n  b: if (custom.x == down) then stop();]]><![CDATA[\n\
         c: if (cluster() == up) then wakeup();]]></failover>"
    ));
    let config = accepted(&text).value.checks.failover;
    assert!(config.extends);
    assert_eq!(config.period, Duration::from_secs(1));
    assert_eq!(config.handle_time, Duration::from_secs(3));
    let rules: Vec<_> = config.rules.iter().map(|r| (r.label.as_str(), &r.then)).collect();
    let acts = [RuleAction::Wait, RuleAction::Stop, RuleAction::Wakeup].map(Then::Act);
    assert_eq!(rules, [("a", &acts[0]), ("b", &acts[1]), ("c", &acts[2])]);

    let broken = text.replace("custom.x == down", "custom.x = down").replace("(ping.gw", "ping.gw");
    let found = errors(&broken);
    assert!(found.iter().any(|e| e.starts_with("u.xml:3:16: error: ")), "{found:?}");
    assert!(found.iter().any(|e| e.starts_with("u.xml:4:19: error: ")), "{found:?}");
    assert_eq!(accepted(&mirror("")).value.checks.failover.handle_time, Duration::from_secs(15));
}

#[test]
fn rules_that_could_never_work_are_reported() {
    let with = |rule: &str| {
        mirror(&format!(
            "<check><tcp ident=\"web\" when=\"prim\"><to addr=\"h\" port=\"1\"/></tcp></check>\
             <failover>\n<![CDATA[\n{rule}\n]]></failover>"
        ))
    };
    has(
        &errors(&with("  w: if (tcp.web == down) then wait();")),
        "u.xml:4:3: error: rule w: tcp.web is checked while the application runs only",
    );
    has(
        &notices(&with("w: if (tcp.wbe == down) then stop();")),
        "u.xml:4:1: warning: rule w: nothing keeps the resource tcp.wbe (did you mean \"tcp.web\"",
    );
    has(
        &errors(&with("w: if (tcp.? == up) then stop();").replace(
            "</failover>",
            "</failover><failover period=\"1s\"><![CDATA[w: if (tcp.? == up) then stop();]]>\
             </failover>",
        )),
        "two rules are labelled \"w\"",
    );
    let lua =
        with("--Lua Rules\nRules = Rules + { w = if_then(\"tcp.web\",\"down\",Action.restart) }");
    has(&errors(&lua), "rules in Lua are not supported");
    let times = with("").replace("<failover>", "<failover period=\"2s\" handle_time=\"3s\">");
    has(&notices(&times), "handle_time is not a multiple of period: it counts as 4s");
    let alone = with("").replace("<failover>", "<failover extends=\"no\">");
    has(&notices(&alone), "extends=\"no\" removes the default rules");
}
