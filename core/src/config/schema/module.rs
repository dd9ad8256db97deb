//! The table of `userconfig.xml`, except its checkers.

use std::time::Duration;

use super::{
    AttributeSpec as A, ElementSpec as E, Kind, Occurs, Support,
    checkers::{CHECK, ERRD, FAILOVER},
    ms, seconds,
};
use crate::config::time::Unit;

const MINUTE: Duration = Duration::from_mins(1);
const TEN_MINUTES: Duration = Duration::from_mins(10);
const DAY_S: u64 = 86_400;
const OWN_ENGINE: Support = Support::Unneeded("Havre's replication engine needs no such setting");
const WINDOWS: Support = Support::Unneeded("it concerns another engine on Windows");

/// `userconfig.xml`.
pub static SAFE: E = E::new("safe", "Holds the description of one module.")
    .occurs(Occurs::Once)
    .children(&[&MACRO, &SERVICE]);

static MACRO: E = E::new("macro", "Defines a text that `%name%` stands for in the file.")
    .occurs(Occurs::Many)
    .attributes(&[
        A::required("name", Kind::Name, "What to write between the percent signs."),
        A::required("value", Kind::Text, "What it stands for; may use earlier macros."),
    ]);

static SERVICE: E = E::new("service", "Describes the module; everything else stands inside it.")
    .occurs(Occurs::Once)
    .attributes(&[
        A::required(
            "mode",
            Kind::Choice(&["mirror", "farm", "light"]),
            "Architecture: `mirror` (a pair with one primary), `farm` (all nodes share the load) \
             or `light` (each node by itself).",
        ),
        A::default(
            "boot",
            Kind::Choice(&["on", "off", "auto", "ignore"]),
            "ignore",
            "Start with the daemon; `auto`: if it ran before; `ignore`: as the command line set.",
        )
        .live(),
        A::default("boot_delay", seconds(0, DAY_S), "0", "Delay before that start.").live(),
        A::default("failover", Kind::OnOff, "on", "Whether a secondary takes over by itself."),
        A::default(
            "defaultprim",
            Kind::Filled,
            "alone",
            "Who is primary when both nodes run: `alone` (whoever runs), `lastprim`, or a node.",
        ),
        A::default(
            "maxloop",
            Kind::Count(0, 1_000),
            "3",
            "Actions caused by detections before the module is stopped.",
        )
        .live(),
        A::default(
            "loop_interval",
            Kind::Time(Unit::Hours, Duration::ZERO, Duration::from_hours(8_760)),
            "24",
            "Window in which `maxloop` counts; 0 disables the count.",
        )
        .live(),
        A::default(
            "automatic_reboot",
            Kind::OnOff,
            "off",
            "Whether a stopstart reboots the machine instead.",
        )
        .live(),
        A::default(
            "maxloop_retry",
            Kind::WordOr("off", &seconds(1, DAY_S)),
            "off",
            "First pause before a module that `maxloop` stopped is tried again; it doubles from \
             try to try. `off`: it stays stopped (Havre's own attribute).",
        )
        .live(),
        A::default(
            "onstartfailure",
            Kind::Choice(&["stop", "failover", "ignore"]),
            "ignore",
            "What a start script that ends with another code than 0 leads to: the module stops; \
             the other node takes over; or only the log tells it (Havre's own attribute).",
        )
        .live(),
        A::optional(
            "quorum",
            Kind::Choice(&["none", "ping", "lease"]),
            "`lease` with a `<witness>`, else `ping` with a `<splitbrain>`, else `none`",
            "Who decides when all heartbeats are lost (Havre's own attribute).",
        ),
    ])
    .children(&[&HEART, &FARM, &VIP, &RFS, &USER, &VHOST, &ERRD, &CHECK, &FAILOVER, &INNER_MACRO]);

static INNER_MACRO: E = E::new("macro", "Defines a text, as directly inside `<safe>`.")
    .occurs(Occurs::Many)
    .support(Support::Refused("move it in front of <service>"));

static HEART: E = E::new("heart", "Sets how the two nodes watch each other.")
    .live()
    .attributes(&[
        A::optional("port", Kind::Port, "", "UDP port of this module's heartbeats.")
            .support(Support::Unneeded("all modules share the port of <lans>")),
        A::default("pulse", ms(10, MINUTE), "700", "Period between heartbeats."),
        A::default(
            "timeout",
            ms(100, TEN_MINUTES),
            "30000",
            "Silence on a network after which it counts as lost; keep it at 3 x pulse or more.",
        ),
        A::default("permanent_arp", Kind::OnOff, "on", "Pins the peer's ARP entries.")
            .support(Support::Unneeded("heartbeats keep the entries fresh")),
    ])
    .children(&[&HEARTBEAT, &HEART_SERVER]);

static HEARTBEAT: E = E::new("heartbeat", "Uses one network for heartbeats; two are better.")
    .occurs(Occurs::OneOrMore)
    .attributes(&[
        A::required("name", Kind::Name, "Name of a `<lan>` of cluster.xml."),
        A::optional(
            "ident",
            Kind::Name,
            "same as name",
            "Label of its resource; `flow` marks the network that replication uses.",
        ),
        A::optional("pulse", ms(10, MINUTE), "that of `<heart>`", "Period on this network."),
        A::optional(
            "timeout",
            ms(100, TEN_MINUTES),
            "that of `<heart>`",
            "Silence after which this network counts as lost.",
        ),
    ])
    .children(&[&HEART_SERVER]);

static HEART_SERVER: E = E::new("server", "Names a node by address (before 7.2).")
    .occurs(Occurs::Many)
    .support(Support::Refused("write <heartbeat name=\"LAN\"/> with a network of cluster.xml"))
    .attributes(&[A::optional("addr", Kind::Host, "", "Its address.")]);

static FARM: E = E::new("farm", "Sets how the nodes of a farm watch each other.")
    .attributes(&[
        A::optional("port", Kind::Port, "", "UDP port of the membership protocol.")
            .support(Support::Unneeded("all modules share the port of <lans>")),
        A::default("pulse", ms(10, MINUTE), "100", "Period of membership packets."),
        A::default(
            "mlost_count",
            Kind::Count(2, 10_000),
            "20",
            "Missing packets after which a new leader is elected.",
        ),
        A::default(
            "slost_count",
            Kind::Count(2, 10_000),
            "10",
            "Missing packets after which a node counts as lost.",
        ),
    ])
    .children(&[&FARM_LAN]);

static FARM_LAN: E = E::new("lan", "Uses one network.")
    .occurs(Occurs::OneOrMore)
    .attributes(&[A::required("name", Kind::Name, "Name of a `<lan>` of cluster.xml.")])
    .children(&[&FARM_NODE]);

static FARM_NODE: E = E::new("node", "Names a node by address (before 7.2).")
    .occurs(Occurs::Many)
    .support(Support::Refused("write <lan name=\"LAN\"/> with a network of cluster.xml"))
    .attributes(&[
        A::optional("name", Kind::Name, "", "Its name."),
        A::optional("addr", Kind::Host, "", "Its address."),
    ]);

static VIP: E = E::new("vip", "Sets the virtual addresses by which clients reach the service.")
    .attributes(&[
        A::default(
            "tcpreset",
            Kind::OnOff,
            "on",
            "Whether connections of the address are reset before it is removed.",
        ),
        A::default(
            "scriptcontrol",
            Kind::OnOff,
            "off",
            "Farm: scripts open and close the traffic; else it is open while the module is ready.",
        ),
    ])
    .children(&[&INTERFACE_LIST, &LOADBALANCING_LIST]);

static INTERFACE_LIST: E = E::new("interface_list", "Holds the network cards.")
    .occurs(Occurs::OneOrMore)
    .children(&[&INTERFACE]);

static INTERFACE: E = E::new("interface", "One network card.")
    .occurs(Occurs::OneOrMore)
    .attributes(&[
        A::default("check", Kind::OnOff, "on", "Watch the card."),
        A::default("arpreroute", Kind::OnOff, "off", "Repeat gratuitous ARP for its addresses."),
        A::default("arpinterval", seconds(1, DAY_S), "60", "Period of that."),
        A::default("arpelapse", seconds(1, DAY_S), "1200", "How long that goes on."),
        A::optional("name", Kind::Name, "found from the address", "Name of the card."),
    ])
    .children(&[&REAL_INTERFACE, &VIRTUAL_INTERFACE]);

static REAL_INTERFACE: E = E::new("real_interface", "Holds the addresses of a mirror.")
    .occurs(Occurs::Many)
    .children(&[&VIRTUAL_ADDR]);

static VIRTUAL_INTERFACE: E = E::new("virtual_interface", "Holds the addresses of a farm.")
    .occurs(Occurs::Many)
    .attributes(&[
        A::required(
            "type",
            Kind::Choice(&["vmac_directed", "vmac_invisible"]),
            "How packets reach all nodes: one passes them on, or all see them.",
        ),
        A::optional(
            "addr",
            Kind::Mac,
            "`5A:FE` and the last four bytes of the first address",
            "MAC address of `vmac_invisible`.",
        ),
    ])
    .children(&[&VIRTUAL_ADDR]);

static VIRTUAL_ADDR: E =
    E::new("virtual_addr", "One virtual address.").occurs(Occurs::OneOrMore).attributes(&[
        A::required("addr", Kind::Address, "The address."),
        A::optional(
            "where",
            Kind::Choice(&["one_side_alias", "one_side", "alias"]),
            "`one_side_alias` in a mirror, `alias` in a farm",
            "Which nodes hold it: `one_side_alias` the primary; `alias` every node of a farm.",
        ),
        A::default("check", Kind::OnOff, "on", "Watch the address."),
        A::default("connections", Kind::OnOff, "off", "Count its connections.")
            .support(Support::Later),
        A::optional("netmask", Kind::Mask, "that of the card", "Its network."),
    ]);

static LOADBALANCING_LIST: E =
    E::new("loadbalancing_list", "Shares a farm's load; what no rule matches is denied.")
        .children(&[&GROUP]);

static GROUP: E = E::new("group", "Packets that are shared alike.")
    .occurs(Occurs::OneOrMore)
    .attributes(&[A::required("name", Kind::Name, "Name of its resource, `NAME_0`.")])
    .children(&[&GROUP_CLUSTER, &RULE]);

static GROUP_CLUSTER: E =
    E::new("cluster", "The nodes of the group; without it all of the farm.").children(&[&HOST]);

static HOST: E = E::new("host", "One node of the group.").occurs(Occurs::Many).attributes(&[
    A::required("name", Kind::Name, "Node of cluster.xml."),
    A::default("power", Kind::Count(0, 1_000_000), "1", "Its weight; 0: no load."),
]);

static RULE: E = E::new(
    "rule",
    "Which packets the group shares; of several rules that match, the first of the file wins.",
)
.occurs(Occurs::OneOrMore)
.attributes(&[
    A::default("virtual_addr", Kind::WordOr("*", &Kind::Address), "*", "Address it applies to."),
    A::default("port", Kind::WordOr("*", &Kind::Port), "*", "Destination port it applies to."),
    A::required(
        "proto",
        Kind::Choice(&["tcp", "udp", "arp"]),
        "Protocol; `arp` (who answers for the address) with `vmac_directed` only.",
    ),
    A::required(
        "filter",
        Kind::Choice(&["on_addr", "on_port", "on_ipid"]),
        "What decides which node takes a packet: the client's address; its address and port; or \
         the identification field of IPv4 (UDP).",
    ),
]);

static RFS: E = E::new("rfs", "Replicates directories to the secondary.")
    .attributes(RFS_ATTRIBUTES)
    .children(&[&REPLICATED, &FLOW]);

static RFS_ATTRIBUTES: &[A] = &[
    A::default(
        "async",
        Kind::Choice(&["second", "none"]),
        "second",
        "What a write barrier waits for: the peer has received (`second`) or has on disk (`none`).",
    ),
    A::default(
        "write",
        Kind::Choice(&["back", "through"]),
        "back",
        "Which operations wait: barriers such as fsync (`back`), or every write (`through`) \
         (Havre's own attribute).",
    ),
    A::optional(
        "port",
        Kind::Port,
        "5600 + 4 x (id - 1)",
        "TCP port of the data path (Havre's own attribute).",
    ),
    A::default("acl", Kind::OnOff, "off", "Replicate access control lists; Havre always does."),
    A::default(
        "locktimeout",
        seconds(1, 3_600),
        "100",
        "Peer's silence on a request before the primary goes on alone.",
    ),
    A::default(
        "sendtimeout",
        seconds(1, 3_600),
        "30",
        "Longest a send may be blocked before the primary goes on alone.",
    ),
    A::optional(
        "reiallowedbw",
        Kind::Count(1, 1 << 32),
        "no limit",
        "Cap of the resynchronisation in KiB per second.",
    ),
    A::optional("mountoversuffix", Kind::Filled, "", "Suffix of the renamed directory.")
        .support(Support::Unneeded("Havre mounts over the directory and renames nothing")),
    A::optional("mountover", Kind::OnOff, "", "Mount over the directory.").support(OWN_ENGINE),
    A::optional("packetsize", Kind::Count(1, 1 << 30), "", "Largest packet.").support(OWN_ENGINE),
    A::optional("reipacketsize", Kind::Count(1, 1 << 30), "", "Largest resync packet.")
        .support(OWN_ENGINE),
    A::optional("ruzone_blocksize", Kind::Count(1, 1 << 30), "", "Size of a bitmap's region.")
        .support(OWN_ENGINE),
    A::optional("iotimeout", seconds(1, 3_600), "", "Limit of one replicated write.")
        .support(WINDOWS),
    A::optional("roflags", Kind::Filled, "", "Reaction to writes on the secondary.")
        .support(WINDOWS),
    A::optional("nbrei", Kind::Count(1, 64), "", "Parallel resync threads.").support(OWN_ENGINE),
    A::optional("namespacepolicy", Kind::Count(0, 4), "", "When to resync by regions.")
        .support(Support::Unneeded("Havre resynchronises by regions after any stop")),
    A::optional("reitimeout", seconds(1, 3_600), "", "Limit of a resync request.")
        .support(OWN_ENGINE),
    A::optional("reicommit", Kind::Count(0, 1 << 30), "", "Commits during one file's copy.")
        .support(OWN_ENGINE),
    A::optional("reidetail", Kind::OnOff, "", "Detailed resync log.").support(OWN_ENGINE),
    A::optional("allocthreshold", Kind::Count(0, 1 << 30), "", "Fast allocation from this size.")
        .support(WINDOWS),
    A::optional("nbremconn", Kind::Count(1, 64), "", "Connections between the nodes.")
        .support(OWN_ENGINE),
    A::optional(
        "checktime",
        Kind::Time(Unit::Milliseconds, Duration::ZERO, Duration::from_hours(1)),
        "",
        "Limit of the local file system's self-check.",
    )
    .support(OWN_ENGINE),
    A::optional("checkintv", seconds(0, DAY_S), "", "Period of that self-check.")
        .support(OWN_ENGINE),
    A::optional("nfsbox_options", Kind::Choice(&["cross", "nocross"]), "", "Mount points inside.")
        .support(WINDOWS),
    A::optional("scripts", Kind::OnOff, "", "Call `_rfs_*` scripts.").support(Support::Later),
    A::optional(
        "syncdelta",
        Kind::Time(Unit::Minutes, Duration::ZERO, Duration::from_hours(8_760)),
        "",
        "Age up to which an outdated copy may become primary.",
    )
    .support(Support::Unneeded("only the newest copy becomes primary by itself")),
    A::optional("syncat", Kind::Filled, "", "Schedule of a synchronisation.")
        .support(Support::Later),
];

static REPLICATED: E = E::new("replicated", "One replicated directory.")
    .occurs(Occurs::OneOrMore)
    .attributes(&[
        A::required("dir", Kind::Directory, "The directory, an absolute path."),
        A::default(
            "mode",
            Kind::Choice(&["read_only"]),
            "read_only",
            "The directory is read-only on the secondary.",
        ),
    ])
    .children(&[&NOTREPLICATED, &TOCHECK]);

static NOTREPLICATED: E = E::new("notreplicated", "What in the directory is not replicated.")
    .occurs(Occurs::Many)
    .attributes(&[
        A::optional("path", Kind::RelativePath, "", "Path below the directory."),
        A::optional("regexpath", Kind::Pattern, "", "Expression on names; `!` in front inverts."),
    ]);

static TOCHECK: E = E::new("tocheck", "What must exist before replication starts.")
    .occurs(Occurs::Many)
    .attributes(&[A::required("path", Kind::RelativePath, "Path below the directory.")]);

static FLOW: E = E::new("flow", "Names the network of replication (before 7.2).")
    .occurs(Occurs::Many)
    .support(Support::Refused("write ident=\"flow\" on the <heartbeat> of that network"))
    .attributes(&[A::optional("name", Kind::Name, "", "Name of a `<lan>`.")])
    .children(&[&HEART_SERVER]);

static USER: E = E::new("user", "Runs the module's scripts; without it no script runs.")
    .live()
    .attributes(&[
        A::default("nicestoptimeout", seconds(1, DAY_S), "300", "Limit of a stop script."),
        A::default("forcestoptimeout", seconds(1, DAY_S), "300", "Limit of a forced stop script."),
        A::default(
            "logging",
            Kind::Choice(&["userlog", "none"]),
            "userlog",
            "Whether what scripts print is kept.",
        ),
        A::default(
            "userlogsize",
            Kind::Count(1, 1 << 20),
            "2048",
            "Size in KiB above which that log is cut.",
        ),
    ])
    .children(&[&VAR]);

static VAR: E =
    E::new("var", "One variable exported to scripts.").occurs(Occurs::Many).attributes(&[
        A::required("name", Kind::Name, "Its name."),
        A::required("value", Kind::Text, "Its value."),
    ]);

static VHOST: E = E::new("vhost", "Gives programs another host name.")
    .support(Support::Later)
    .children(&[&VIRTUALHOSTNAME]);

static VIRTUALHOSTNAME: E =
    E::new("virtualhostname", "The other host name.").occurs(Occurs::Many).attributes(&[
        A::required("name", Kind::Name, "The name."),
        A::optional("envfile", Kind::Filled, "", "File that scripts source."),
        A::default("when", Kind::Choice(&["prim", "second", "both"]), "prim", "In which role."),
    ]);
