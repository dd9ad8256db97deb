//! What real files contain (reference: safekit.md section 2.9), row by row.

use super::*;

/// Row 1 and 3: a mirror as published, with typographic quotes around two values.
const PUBLISHED_MIRROR: &str = "<!DOCTYPE safe>\r
<safe>\r
<service mode=\"mirror\" defaultprim=\"alone\" maxloop=\"3\" loop_interval=\"24\" failover=\"on\">\r
  <heart pulse=\"700\" timeout=\"30000\">\r
    <heartbeat name=”default” ident=”flow”/>\r
  </heart>\r
  <vip><interface_list><interface check=\"on\" arpreroute=\"on\"><real_interface>\r
    <virtual_addr addr=\"VIRTUAL_TO_BE_DEFINED\" where=\"one_side_alias\"/>\r
  </real_interface></interface></interface_list></vip>\r
  <errd polltimer=\"10\"><proc name=\"PROCESS_NAME\" atleast=\"1\" action=\"restart\" \
class=\"prim\"/></errd>\r
  <rfs async=\"second\" acl=\"off\" nbrei=\"3\">\r
    <replicated dir=\"c:\\test1replicated\" mode=\"read_only\"/>\r
    <replicated dir=\"c:\\test2replicated\" mode=\"read_only\"/>\r
  </rfs>\r
  <user nicestoptimeout=\"300\" forcestoptimeout=\"300\" logging=\"userlog\"/>\r
</service>\r
</safe>";

/// Rows 4 to 7: a farm as published, with its addresses to be filled in.
const PUBLISHED_FARM: &str = r#"<!DOCTYPE safe>
<safe>
<service mode="farm" maxloop="3" loop_interval="24">
  <farm><lan name="default"/></farm>
  <vip>
    <interface_list><interface check="on" arpreroute="on">
      <virtual_interface type="vmac_directed">
        <virtual_addr addr="VIRTUAL_IP_ADDR_TO_BE_DEFINED" where="alias"/>
      </virtual_interface>
    </interface></interface_list>
    <loadbalancing_list><group name="Windows_Appli">
      <rule port="TCP_PORT_TO_BE_DEFINED" proto="tcp" filter="on_addr"/>
    </group></loadbalancing_list>
  </vip>
  <check><tcp ident="Check_Appli" when="both">
    <to addr="10.0.0.50" port="80" interval="10" timeout="5"/>
  </tcp></check>
  <user nicestoptimeout="300" forcestoptimeout="300" logging="userlog"/>
</service>
</safe>"#;

#[test]
fn row_1_each_typographic_quote_is_reported_at_its_place_and_hides_no_later_error() {
    let found = errors(PUBLISHED_MIRROR);
    let quotes: Vec<&String> = found.iter().filter(|e| e.contains("typographic")).collect();
    assert_eq!(quotes.len(), 4, "{found:?}");
    assert!(quotes[0].starts_with("u.xml:5:21: error: typographic quote ” (U+201D)"));
    assert!(quotes[1].starts_with("u.xml:5:29: error"));
    assert!(quotes[2].starts_with("u.xml:5:37: error"));
    assert!(quotes[3].contains("(type a straight quote \" instead)"));
    has(
        &found,
        "u.xml:8:19: error: <virtual_addr> addr=\"VIRTUAL_TO_BE_DEFINED\" is the placehold",
    );
    assert_eq!(found.len(), 5, "{found:?}");
}

#[test]
fn row_3_a_flow_heartbeat_on_the_only_network_is_legal() {
    let text = PUBLISHED_MIRROR.replace('”', "\"").replace("VIRTUAL_TO_BE_DEFINED", "10.0.0.50");
    let config = accepted(&text).value;
    assert_eq!(config.heart.heartbeats[0].ident, "flow");
    let rfs = config.rfs.expect("the file has <rfs>");
    assert_eq!(rfs.directories[0].dir, Path::new("c:\\test1replicated"));
    assert_eq!(config.checks.errd.expect("the file has <errd>").procs[0].name, "PROCESS_NAME");
    has(&notices(&text), "<rfs nbrei=\"3\"> is accepted and has no effect");
}

#[test]
fn row_4_placeholders_are_refused_and_a_name_of_another_system_is_not() {
    let found = errors(PUBLISHED_FARM);
    has(&found, "addr=\"VIRTUAL_IP_ADDR_TO_BE_DEFINED\" is the placeholder of a template");
    has(&found, "port=\"TCP_PORT_TO_BE_DEFINED\" is the placeholder of a template");
    assert_eq!(found.len(), 2, "{found:?}");
    let filled = PUBLISHED_FARM
        .replace("VIRTUAL_IP_ADDR_TO_BE_DEFINED", "10.0.0.51")
        .replace("TCP_PORT_TO_BE_DEFINED", "80");
    let farm = accepted(&filled).value.farm.expect("the file has <farm>");
    assert_eq!(farm.groups[0].name, "Windows_Appli");
}

#[test]
fn row_5_a_tcp_checker_without_action_is_accepted() {
    let text = mirror(
        "<check><tcp ident=\"a\" when=\"prim\"><to addr=\"10.0.0.9\" port=\"80\"/></tcp></check>",
    );
    let checker = &accepted(&text).value.checks.checkers[0];
    assert_eq!(checker.action, module::CheckAction::Restart);
}

#[test]
fn row_6_a_checker_through_the_farms_own_address_is_warned_of() {
    let text = PUBLISHED_FARM
        .replace("VIRTUAL_IP_ADDR_TO_BE_DEFINED", "10.0.0.50")
        .replace("TCP_PORT_TO_BE_DEFINED", "80");
    has(&notices(&text), "warning: this checker goes through the farm's virtual address");
}

#[test]
fn row_7_bare_numbers_are_milliseconds_hours_or_seconds_by_attribute() {
    let text = PUBLISHED_MIRROR.replace('”', "\"").replace("VIRTUAL_TO_BE_DEFINED", "10.0.0.50");
    let config = accepted(&text).value;
    assert_eq!(config.heart.timing.pulse.as_millis(), 700);
    assert_eq!(config.heart.timing.timeout.as_secs(), 30);
    assert_eq!(config.service.loop_interval.as_secs(), 24 * 3600);
    let user = config.user.expect("the file has <user>");
    assert_eq!(user.nice_stop_timeout.as_secs(), 300);
}

#[test]
fn row_8_a_misspelt_tag_is_told_the_nearest_known_one() {
    let text = "<safe><service mode=\"mirror\"><heart>\n<hearbeat name=\"default\"/></heart>\
                <user/></service></safe>";
    assert_eq!(
        errors(text),
        ["u.xml:2:1: error: <hearbeat> is not known inside <heart> (did you mean \"heartbeat\"?)"]
    );
}

#[test]
fn row_9_a_closing_tag_of_a_closed_element_and_a_misspelt_one_are_told_apart() {
    let text =
        mirror("<check>\n<custom ident=\"c\" when=\"prim\" exec=\"c.sh\"/>\n</custom>\n</chek>");
    assert_eq!(
        errors(&text),
        [
            "u.xml:4:1: error: </custom> closes nothing: <custom> of line 3 is closed (remove it, \
             or the \"/\" before the \">\" of the opening tag)",
            "u.xml:5:1: error: </chek> does not match <check> of line 2 (did you mean </check>?)",
        ]
    );
    let guide = "<safe><service mode=\"mirror\"><heart><heartbeat name=\"default\">\n\
                 </hearbeat></heart></service></safe>";
    has(&errors(guide), "u.xml:2:1: error: </hearbeat> does not match <heartbeat> of line 1");
}

#[test]
fn row_10_a_macro_before_the_root_works_with_a_warning() {
    let text = "<macro name=\"N\" value=\"default\"/>\n<safe><service mode=\"mirror\">\
                <heart><heartbeat name=\"%N%\"/></heart><user/></service></safe>";
    assert_eq!(accepted(text).value.heart.heartbeats[0].name, "default");
    has(&notices(text), "u.xml:1:1: warning: <macro> stands outside of <safe>");
}

#[test]
fn row_11_a_check_inside_a_check_is_read_as_one() {
    let text =
        mirror("<check>\n<check><splitbrain exec=\"ping\" arg=\"10.0.0.254\"/></check></check>");
    has(&notices(&text), "u.xml:3:1: warning: <check> inside <check>");
    let expected = module::QuorumPolicy::Ping(vec!["10.0.0.254".parse().expect("an address")]);
    assert_eq!(accepted(&text).value.quorum, expected);
}

#[test]
fn row_12_a_doubled_quote_and_a_tag_without_end_are_reported_and_read_past() {
    let text = "<safe><service mode=\"farm\"><farm><lan name=\"default\"/></farm><vip>\n\
        <interface_list><interface><virtual_interface type=\"\"vmac_directed\">\n\
        <virtual_addr addr=\"10.0.0.50\" where=\"alias\"/></virtual_interface></interface>\n\
        </interface_list><loadbalancing_list>\n\
        <group name=\"g\"\n  <cluster><host name=\"node1\" powr=\"1\"/></cluster>\n\
        <rule proto=\"tcp\" filter=\"on_addr\"/></group>\n\
        </loadbalancing_list></vip><user/></service></safe>";
    assert_eq!(
        errors(text),
        [
            "u.xml:2:52: error: the opening quote \" is doubled (remove one of the two quotes)",
            "u.xml:5:1: error: tag <group> has no \">\" at its end (add the \">\")",
            "u.xml:6:31: error: <host> has no attribute powr (did you mean \"power\"?)",
        ]
    );
}

#[test]
fn row_13_the_forms_of_shipped_files_are_accepted() {
    let text = "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?>\r\n<!-- é: a comment \
        with \\-\\- and <tags attr=”x”> before DOCTYPE -->\r\n<!DOCTYPE safe><safe>\r\n\t <service \
        mode=\"mirror\" >\r\n \t<heart ><heartbeat\r\n\tname = 'default' ></heartbeat>\r\n</heart >\
        <user><var name=\"TITLE\" value=\"Grüße &amp; “quotes” 100%\"/></user></service>\r\n\
        </safe><!-- no final newline -->";
    let config = accepted(text).value;
    let user = config.user.expect("the file has <user>");
    let expected = ("TITLE".to_owned(), "Grüße & “quotes” 100%".to_owned());
    assert_eq!(user.variables, [expected]);
}

#[test]
fn row_13_values_to_be_filled_in_are_named_each() {
    let text = mirror(
        "<vip><interface_list><interface><real_interface>\n<virtual_addr addr=\"\"/>\n\
         </real_interface></interface></interface_list></vip>\n<rfs><replicated dir=\"\"/></rfs>\n\
         <check><ping ident=\"\"><to addr=\" \"/></ping></check>",
    );
    let found = errors(&text);
    has(&found, "u.xml:3:15: error: <virtual_addr> addr=\"\" is empty (fill it in");
    has(&found, "u.xml:5:18: error: <replicated> dir=\"\" is empty (fill it in: absolute path)");
    has(&found, "<ping> ident=\"\" is empty");
    has(&found, "<to> addr=\"\" is empty");
    assert_eq!(found.len(), 4, "{found:?}");
}

#[test]
fn row_14_old_xml_with_cdata_in_a_comment_is_skipped() {
    let text = mirror(
        "<!-- <failover><![CDATA[ tcp: if (tcp.? == down) then restart(); ]]></failover> -->\
         <failover><![CDATA[\nx: if (ping.a == down && !(custom.b == up)) then stop();\n]]>\
         </failover>",
    );
    assert_eq!(accepted(&text).value.checks.failover.rules[0].label, "x");
}

#[test]
fn row_16_windows_paths_of_macros_and_backslashes_at_the_end_are_accepted() {
    let text = "<safe><macro name=\"VM_PATH\" value=\"D:\\vms\"/><macro name=\"VM_NAME\" \
        value=\"vm 1\"/><service mode=\"mirror\"><heart><heartbeat name=\"default\"/></heart>\
        <rfs><replicated dir=\"%VM_PATH%\\%VM_NAME%\"/><replicated dir=\"E:\\data\\\"/></rfs>\
        <user/></service></safe>";
    let rfs = accepted(text).value.rfs.expect("the file has <rfs>");
    assert_eq!(rfs.directories[0].dir, Path::new("D:\\vms\\vm 1"));
    assert_eq!(rfs.directories[1].dir, Path::new("E:\\data"));
}

#[test]
fn all_errors_of_a_file_are_reported_in_the_order_of_the_file() {
    let text = "<safe>\n<service mode=”mirror” maxlop=\"3\">\n<heart pulse=\"100us\"><hartbeat \
        name=\"defualt\"/></heart>\n<rfs><replicated dir=\"data\"/></rfs>\n\
        <user logging=userlog/>\n</servise>\n</safe>";
    let found = errors(text);
    for part in [
        "u.xml:2:15: error: typographic",
        "u.xml:2:22: error: typographic",
        "u.xml:2:24: error: <service> has no attribute maxlop (did you mean \"maxloop\"?)",
        "u.xml:3:8: error: <heart> pulse=\"100us\" is less than one ms, the unit of pulse",
        "u.xml:3:22: error: <hartbeat> is not known inside <heart> (did you mean \"heartbeat\"?)",
        "u.xml:4:18: error: <replicated> dir=\"data\" is not an absolute path",
        "u.xml:5:15: error: an attribute's value stands without quotes",
        "u.xml:6:1: error: </servise> does not match <service> of line 2",
    ] {
        has(&found, part);
    }
    assert_eq!(found.len(), 8, "{}", found.join("\n"));
}

/// A file with a dozen different typing errors, each repaired so that the next one is found.
const MISTYPED: &str = "<!DOCTYPE safe>
<safe>
<service mode=\"mirror\" defaultprim=\"alone\" failover=\"on>
  <heart pulse=\"700\" timeout=\"30000\">
    <heartbeat name=default ident=“flow”>
  </heart>
  <vip>
    <interface_list>
      <interface check=\"on\">
        <real_interface>
          <virtual_addr addr=\"\" where=\"one_side_alias\">
        </real_interface>
      </interfaces>
    </interface_list>
  <vip>
  <rfs async=\"seccond\">
    <replicate dir=\"/data mode=\"read_only\"/>
    <replicated dir='/data2'>
       <notreplicated regexpath=\"a<b\"/>
    </replicated
  </rfs>
  <user logging=\"none\" logging=\"userlog\"/>
</service>
</safe>";

#[test]
fn a_dozen_typing_errors_are_reported_each_once_at_its_place() {
    let found = errors(MISTYPED);
    let expected = [
        "3:53: error: this quote is not closed",
        "5:21: error: an attribute's value stands without quotes",
        "5:35: error: typographic quote “",
        "5:40: error: typographic quote ”",
        "6:3: error: <heartbeat> of line 5 is not closed before </heart>",
        "11:25: error: <virtual_addr> addr=\"\" is empty",
        "12:9: error: <virtual_addr> of line 11 is not closed before </real_interface>",
        "13:7: error: </interfaces> does not match <interface> of line 9",
        "15:3: error: <vip> opens again inside <vip> of line 7 (did you mean </vip>?)",
        "16:8: error: <rfs> async=\"seccond\" is not allowed (did you mean \"second\"?)",
        "17:5: error: <replicate> is not known inside <rfs> (did you mean \"replicated\"?)",
        "17:20: error: this quote is not closed",
        "19:34: error: a \"<\" inside a value",
        "20:5: error: tag </replicated> has no \">\" at its end",
        "22:24: error: the attribute occurs twice in this tag",
    ];
    assert_eq!(found.len(), expected.len(), "{}", found.join("\n"));
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(&format!("u.xml:{expected}")), "{found}\n{expected}");
    }
}
