//! The table of what watches the application: `<errd>`, `<check>` and `<failover>`.

use std::time::Duration;

use super::{AttributeSpec as A, ElementSpec as E, Kind, Occurs, ms, seconds};

const ACTIONS: Kind = Kind::Choice(&["stop", "stopstart", "restart", "swap", "wait", "noaction"]);
const WHEN: Kind = Kind::Choice(&["pre", "prim", "second", "both"]);
const INTERVAL: A = A::default("interval", seconds(1, 86_400), "10", "Period of the check.");
const TIMEOUT: A = A::default("timeout", seconds(1, 3_600), "5", "Limit of the check.");
const SHARED: A = A::default(
    "shared",
    Kind::OnOff,
    "off",
    "A target that is down from every node does not stop an application that runs; with \
     `when=\"pre\"` and `action=\"wait\"` only (Havre's own attribute).",
);
const IDENT: A = A::required("ident", Kind::Name, "Name of its resource.");

pub(super) static ERRD: E = E::new("errd", "Watches processes and services.")
    .live()
    .attributes(&[A::default("polltimer", seconds(1, 86_400), "30", "Period of the check.")])
    .children(&[&PROC]);

static PROC: E = E::new("proc", "One process or service.").occurs(Occurs::Many).attributes(&[
    A::required("name", Kind::Filled, "Command name, or service name."),
    A::default("service", Kind::Choice(&["yes", "no"]), "no", "Whether it is a service."),
    A::optional("nameregex", Kind::Pattern, "", "Expression on the command name."),
    A::optional("argregex", Kind::Pattern, "", "Expression on the command line."),
    A::required("class", Kind::Name, "When it is watched: prim, both, pre, second, or your own."),
    A::default("action", Kind::Filled, "stopstart", "What to do, or a handler of `bin`."),
    A::optional("restart_services", Kind::Filled, "", "Restart only the service."),
    A::default("atleast", Kind::Count(-1, 100_000), "1", "Fewer instances cause the action."),
    A::default("atmax", Kind::Count(-1, 100_000), "-1", "That many instances cause the action."),
    A::default("start_after", Kind::Count(0, 100_000), "0", "Periods before watching begins."),
]);

pub(super) static CHECK: E = E::new("check", "Holds the checkers.")
    .live()
    .children(&[&TCP, &PING, &INTF, &IP, &CUSTOM, &MODULE, &SPLITBRAIN])
    .occurs(Occurs::Many);

static TCP: E = E::new("tcp", "Connects to a TCP port.")
    .occurs(Occurs::Many)
    .attributes(&[
        IDENT,
        A::required("when", WHEN, "In which role."),
        A::optional(
            "action",
            ACTIONS,
            "`restart`; `wait` with `when=\"pre\"`",
            "What to do when it fails; with `when=\"pre\"` only `wait` or `noaction`.",
        ),
        SHARED,
    ])
    .children(&[&TCP_TO]);

static TCP_TO: E = E::new("to", "Where to.").occurs(Occurs::Once).attributes(&[
    A::required("addr", Kind::Host, "Address."),
    A::required("port", Kind::Port, "Port."),
    INTERVAL,
    TIMEOUT,
]);

static PING: E = E::new("ping", "Pings a host.")
    .occurs(Occurs::Many)
    .attributes(&[
        IDENT,
        A::default("when", WHEN, "pre", "In which role."),
        A::default(
            "action",
            ACTIONS,
            "wait",
            "What to do when it fails; `wait` with `when=\"pre\"` only.",
        ),
        SHARED,
    ])
    .children(&[&PING_TO]);

static PING_TO: E = E::new("to", "Which host.").occurs(Occurs::Once).attributes(&[
    A::required("addr", Kind::Host, "Address."),
    INTERVAL,
    TIMEOUT,
]);

static INTF: E = E::new("intf", "Watches a network card.")
    .occurs(Occurs::Many)
    .attributes(&[
        IDENT,
        A::default("when", Kind::Choice(&["pre"]), "pre", "In which role."),
        SHARED,
    ])
    .children(&[&INTF_TO]);

static INTF_TO: E = E::new("to", "Which card.").occurs(Occurs::Once).attributes(&[A::required(
    "local_addr",
    Kind::Address,
    "The card whose network contains this address.",
)]);

static IP: E = E::new("ip", "Watches a local address.")
    .occurs(Occurs::Many)
    .attributes(&[
        IDENT,
        A::optional(
            "when",
            Kind::Choice(&["prim", "both"]),
            "`prim`, in a farm `both`",
            "In which role.",
        ),
    ])
    .children(&[&IP_TO]);

static IP_TO: E = E::new("to", "Which address.")
    .occurs(Occurs::Once)
    .attributes(&[A::required("addr", Kind::Host, "The address."), INTERVAL]);

static CUSTOM: E =
    E::new("custom", "Runs a checker of your own.").occurs(Occurs::Many).attributes(&[
        IDENT,
        A::required("when", WHEN, "In which role."),
        A::required("exec", Kind::Filled, "Program in `bin`."),
        A::optional("arg", Kind::Text, "", "Its arguments."),
        A::default(
            "action",
            ACTIONS,
            "noaction",
            "What to do when it fails; with `when=\"pre\"` only `wait` or `noaction`.",
        ),
        SHARED,
    ]);

static MODULE: E = E::new("module", "Watches another module.")
    .occurs(Occurs::Many)
    .attributes(&[
        A::optional("ident", Kind::Name, "name and address", "Name of its resource."),
        A::required("name", Kind::Name, "The other module."),
        A::default("when", Kind::Choice(&["pre"]), "pre", "In which role."),
        SHARED,
    ])
    .children(&[&MODULE_TO]);

static MODULE_TO: E = E::new("to", "Where it runs; default: here.").attributes(&[
    A::required("addr", Kind::Host, "Address."),
    A::default("port", Kind::Port, "9010", "Port."),
    INTERVAL,
    TIMEOUT,
    A::default("secure", Kind::OnOff, "off", "Use TLS."),
]);

static SPLITBRAIN: E = E::new("splitbrain", "Pings hosts that decide who runs when cut off.")
    .attributes(&[
        A::default("ident", Kind::Name, "witness", "Name of its resource."),
        A::required("exec", Kind::Choice(&["ping"]), "How to ask."),
        A::required("arg", Kind::Filled, "Numeric addresses, separated by blanks."),
        A::default("when", Kind::Choice(&["pre"]), "pre", "In which role."),
    ]);

pub(super) static FAILOVER: E = E::new("failover", "Rules from checkers' results to actions.")
    .occurs(Occurs::Many)
    .with_text()
    .attributes(&[
        A::default("extends", Kind::Choice(&["yes", "no"]), "yes", "Keep the default rules."),
        A::default("period", ms(100, Duration::from_mins(10)), "5000", "Period of evaluation."),
        A::default(
            "handle_time",
            ms(0, Duration::from_hours(1)),
            "15000",
            "How long a result must stay the same.",
        ),
    ]);
