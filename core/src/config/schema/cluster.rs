//! The table of `cluster.xml`.

use std::time::Duration;

use super::{AttributeSpec as A, ElementSpec as E, Kind, Occurs, Support, ms};

const OLD: Support = Support::Unneeded("a setting of releases before 8");
const FARM_VIEW: Support = Support::Unneeded("each module's <heart> sets its own timing");

/// `cluster.xml`.
pub static CLUSTER: E = E::new("cluster", "Names the nodes, their networks and the witness.")
    .occurs(Occurs::Once)
    .children(&[&LANS, &WITNESS]);

static LANS: E = E::new("lans", "Holds the networks.")
    .occurs(Occurs::Once)
    .attributes(&[
        A::default("port", Kind::Port, "4800", "UDP port of the nodes' datagrams."),
        A::default("pulse", ms(10, Duration::from_mins(1)), "100", "Period of membership packets.")
            .support(FARM_VIEW),
        A::default("mlost_count", Kind::Count(2, 10_000), "20", "Missing packets of a leader.")
            .support(FARM_VIEW),
        A::default("slost_count", Kind::Count(2, 10_000), "10", "Missing packets of a follower.")
            .support(FARM_VIEW),
    ])
    .children(&[&LAN]);

static LAN: E = E::new("lan", "One network; at least one must contain all nodes.")
    .occurs(Occurs::OneOrMore)
    .attributes(&[
        A::required("name", Kind::Name, "Logical name, by which modules refer to the network."),
        A::default(
            "command",
            Kind::OnOff,
            "off",
            "Whether distributed commands use this network; at most one, and with all nodes.",
        ),
        A::optional("console", Kind::OnOff, "", "Whether the console uses it.").support(OLD),
        A::optional("framework", Kind::OnOff, "", "Whether the framework uses it.").support(OLD),
        A::optional("connect", Kind::Text, "", "How the console connects.").support(OLD),
    ])
    .children(&[&NODE]);

static NODE: E =
    E::new("node", "One node on this network.").occurs(Occurs::OneOrMore).attributes(&[
        A::required("name", Kind::Name, "Identity of the node, the same on every network."),
        A::required("addr", Kind::Host, "Address at which the other nodes reach it."),
        A::optional(
            "laddr",
            Kind::Host,
            "same as addr",
            "Address to bind locally where the node is behind NAT.",
        ),
        A::optional("console", Kind::OnOff, "", "Whether the console uses it.").support(OLD),
        A::optional("framework", Kind::OnOff, "", "Whether the framework uses it.").support(OLD),
    ]);

static WITNESS: E = E::new(
    "witness",
    "Third machine that runs `havre witness` and grants the right to run (Havre's own element).",
)
.attributes(&[
    A::required("addr", Kind::Host, "Its address."),
    A::default("port", Kind::Port, "4799", "Its UDP port."),
]);
