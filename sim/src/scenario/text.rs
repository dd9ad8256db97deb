//! Plans back to TOML: for messages, and for exporting a failing run as a scenario.

use std::{fmt::Write as _, time::Duration};

use havre_core::config::module::Contract;

use super::{
    checks::CHANGES,
    step::{ORDERS, TRIGGERS},
};
use crate::{
    disk::DiskFaults,
    expect::{Condition, Property},
    net::{HostId, Weather},
    plan::{
        Action, DiskStep, Plan, Policy, Preferred, Question, ScriptFault, ScriptKind, Selector,
        Start, Step, When,
    },
    time::micros,
};

fn span(span: Duration) -> String {
    let micros = micros(span);
    if micros.is_multiple_of(1_000_000) {
        format!("\"{}s\"", micros / 1_000_000)
    } else if micros.is_multiple_of(1_000) {
        format!("\"{}ms\"", micros / 1_000)
    } else {
        format!("\"{micros}us\"")
    }
}

fn share(ppm: u32) -> f64 {
    f64::from(ppm) / 1e6
}

fn pair((low, high): (u64, u64)) -> String {
    format!("[{}, {}]", span(Duration::from_micros(low)), span(Duration::from_micros(high)))
}

fn sides(from: Selector, to: Selector, both: bool) -> String {
    format!("\"{} {} {}\"", from.name(), if both { '|' } else { '>' }, to.name())
}

fn name_of<T: PartialEq + Copy>(names: &[(&'static str, T)], value: T) -> &'static str {
    names.iter().find(|(_, v)| *v == value).map_or("?", |(name, _)| name)
}

fn listed(conditions: &[Condition]) -> String {
    conditions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// One line of a timeline.
pub fn step_text(step: &Step) -> String {
    let mut text = match &step.when {
        When::At(at) => format!("at = {}", span(Duration::from_micros(at.as_micros()))),
        When::After(after) => format!("after = {}", span(*after)),
        When::Event { trigger, nth, delay } => {
            let mut text = format!("when = \"{}\"", name_of(&TRIGGERS, *trigger));
            if *nth > 1 {
                let _ = write!(text, ", nth = {nth}");
            }
            if !delay.is_zero() {
                let _ = write!(text, ", delay = {}", span(*delay));
            }
            text
        }
    };
    text.push_str(", ");
    text.push_str(&action_text(&step.action));
    format!("{{ {text} }}")
}

fn for_text(of: Option<Duration>) -> String {
    of.map_or_else(String::new, |of| format!(", for = {}", span(of)))
}

fn back_text(after: Option<Duration>) -> String {
    after.map_or_else(String::new, |after| format!(", back_after = {}", span(after)))
}

fn action_text(action: &Action) -> String {
    match action {
        Action::Cut { from, to, both, net } => {
            let net = net.map_or_else(String::new, |net| format!(", net = {net}"));
            format!("cut = {}{net}", sides(*from, *to, *both))
        }
        Action::Heal { from, to } => format!("heal = {}", sides(*from, *to, true)),
        Action::HealAll => "heal = \"all\"".into(),
        Action::Isolate(who) => format!("isolate = \"{}\"", who.name()),
        Action::PowerCut { who, in_write, back_after } => {
            let inside = if *in_write { ", in = \"write\"" } else { "" };
            format!("power_cut = \"{}\"{inside}{}", who.name(), back_text(*back_after))
        }
        Action::PowerOn(who) => format!("power_on = \"{}\"", who.name()),
        Action::Crash { who, back_after } => {
            format!("crash = \"{}\"{}", who.name(), back_text(*back_after))
        }
        Action::Pause { who, span } => format!("pause = \"{}\"{}", who.name(), for_text(*span)),
        Action::Resume(who) => format!("resume = \"{}\"", who.name()),
        Action::Slow { who, lag, span: of } => {
            format!("slow = \"{}\", lag = {}{}", who.name(), span(*lag), for_text(*of))
        }
        Action::Drift { who, ppm } => format!("drift = \"{}\", ppm = {ppm}", who.name()),
        Action::Weather { from, to, weather, span } => {
            format!(
                "weather = {}{}{}",
                sides(*from, *to, true),
                weather_text(weather),
                for_text(*span)
            )
        }
        Action::Disk { who, fault, span } => {
            format!(
                "disk = \"{}\", fault = \"{}\"{}",
                who.name(),
                disk_text(fault),
                for_text(*span)
            )
        }
        Action::Script { who, kind, fault, times } => {
            let kind = if *kind == ScriptKind::Start { "start" } else { "stop" };
            let fault = if *fault == ScriptFault::Hang { "hangs" } else { "fails" };
            format!("script = \"{}\", fault = \"{kind} {fault}\", times = {times}", who.name())
        }
        Action::Order { who, order } => {
            format!("order = \"{}\", do = \"{}\"", who.name(), name_of(&ORDERS, *order))
        }
        Action::OrderBy { who, order } => {
            let order = name_of(&ORDERS, *order);
            format!("order = \"{}\", do = \"{order}\", by = \"detector\"", who.name())
        }
        Action::Check { who, what, to } => {
            let to = name_of(&CHANGES, *to);
            format!("check = \"{}\", of = \"{what}\", do = \"{to}\"", who.name())
        }
        Action::Ask { who, what } => {
            let what = match what {
                Question::Set(resource, state) => format!("{resource} {state}"),
                Question::Switch(switch, on) => {
                    format!("{} {}", switch.word(), if *on { "on" } else { "off" })
                }
            };
            format!("ask = \"{}\", do = \"{what}\"", who.name())
        }
        Action::Write(who) => format!("write = \"{}\"", who.name()),
        Action::Load(on) => format!("load = \"{}\"", if *on { "on" } else { "off" }),
        Action::Calm => "calm = true".into(),
        Action::Settled => "settled = true".into(),
        Action::End => "end = true".into(),
        Action::Expect { conditions, within, .. } => {
            format!("expect = \"{}\", within = {}", listed(conditions), span(*within))
        }
        Action::Hold { conditions, span: of } => {
            format!("hold = \"{}\", for = {}", listed(conditions), span(*of))
        }
    }
}

fn weather_text(weather: &Weather) -> String {
    let mut text = format!(", spread = {}", pair(weather.delay_us));
    for (name, ppm) in [
        ("loss", weather.loss_ppm),
        ("duplicate", weather.duplicate_ppm),
        ("reorder", weather.reorder_ppm),
    ] {
        if ppm > 0 {
            let _ = write!(text, ", {name} = {}", share(ppm));
        }
    }
    text
}

fn disk_text(fault: &DiskStep) -> String {
    let faults = match fault {
        DiskStep::Rot => return "rot".into(),
        DiskStep::Replace => return "replace".into(),
        DiskStep::Faults(faults) => faults,
    };
    let rates = [
        ("read-errors", faults.read_error_ppm),
        ("write-errors", faults.write_error_ppm),
        ("flush-errors", faults.flush_error_ppm),
        ("misdirect", faults.misdirect_ppm),
    ];
    if let Some((name, ppm)) = rates.into_iter().find(|(_, ppm)| *ppm > 0) {
        return format!("{name} {}", share(ppm));
    }
    match faults {
        DiskFaults { full: true, .. } => "full".into(),
        DiskFaults { lying_flush: true, .. } => "lying-flush".into(),
        DiskFaults { slowdown: 2.., .. } => format!("slow {}", faults.slowdown),
        _ => "healthy".into(),
    }
}

/// A plan as a scenario file, with what is known of its origin.
pub fn export(plan: &Plan, about: &str, runs: u32, origin: &[(&str, String)]) -> String {
    let mut out = String::new();
    let setup = &plan.setup;
    let load = &setup.load;
    let line = |out: &mut String, text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    line(&mut out, "format = 1".into());
    line(&mut out, format!("name = {:?}", plan.name));
    line(&mut out, format!("about = {about:?}"));
    line(
        &mut out,
        match setup.start {
            Start::Blank => "start = \"blank\"".into(),
            Start::Pair => "start = \"pair\"".into(),
            Start::Farm => "start = \"farm\"".into(),
        },
    );
    line(&mut out, "\ntimeline = [".into());
    let made = match setup.start {
        Start::Blank => 0,
        Start::Pair => super::pair_steps().len(),
        Start::Farm => super::farm_steps().len(),
    };
    for step in plan.steps.iter().skip(made) {
        line(&mut out, format!("  {},", step_text(step)));
    }
    line(&mut out, "]\n\n[module]".into());
    line(
        &mut out,
        format!(
            "policy = \"{}\"",
            match setup.policy {
                Policy::None => "none",
                Policy::Ping => "ping",
                Policy::Lease => "lease",
            }
        ),
    );
    line(
        &mut out,
        format!(
            "contract = \"{}\"",
            match setup.contract {
                Contract::Durable => "durable",
                Contract::Received => "received",
            }
        ),
    );
    line(&mut out, format!("timeout = {}", span(setup.timeout)));
    line(&mut out, format!("pulse = {}", span(setup.pulse)));
    line(&mut out, format!("failover = {}", setup.failover));
    line(
        &mut out,
        format!(
            "default_primary = \"{}\"",
            match setup.preferred {
                Preferred::Alone => "alone",
                Preferred::Last => "last",
                Preferred::Node(host) => host.name(),
            }
        ),
    );
    line(&mut out, format!("scripts = {}", pair(setup.script_us)));
    out.push_str(&super::checks::text(setup));
    if let Some(farm) = &setup.farm {
        line(&mut out, "\n[farm]".into());
        line(&mut out, format!("nodes = {}\nleader_pulses = {}", farm.nodes, farm.leader_pulses));
        line(&mut out, format!("clients = {}", span(farm.clients_every)));
        line(&mut out, format!("powers = {:?}", farm.powers));
    }
    line(&mut out, "\n[nodes]".into());
    for host in [HostId::A, HostId::B, HostId::W] {
        let ppm = setup.drift_ppm[host.index()];
        line(&mut out, format!("{host} = {{ drift_ppm = {ppm} }}"));
    }
    line(&mut out, "\n[links]".into());
    line(&mut out, format!("nets = {}", setup.nets));
    line(&mut out, format!("delay = {}", pair(setup.weather.delay_us)));
    line(&mut out, format!("loss = {:?}", share(setup.weather.loss_ppm)));
    line(&mut out, format!("duplicate = {:?}", share(setup.weather.duplicate_ppm)));
    line(&mut out, format!("reorder = {:?}", share(setup.weather.reorder_ppm)));
    line(&mut out, "\n[disk]".into());
    line(&mut out, format!("read = {}", pair(setup.disk.read_us)));
    line(&mut out, format!("write = {}", pair(setup.disk.write_us)));
    line(&mut out, format!("flush = {}", pair(setup.disk.flush_us)));
    line(&mut out, "\n[load]".into());
    line(&mut out, format!("every = {}", span(load.every)));
    line(&mut out, format!("blocks = {}\nregion = {}", load.blocks, load.region_blocks));
    line(&mut out, format!("writes = {}\nhot = {}", load.writes_max, load.hot_blocks));
    line(&mut out, format!("reads = {:?}", share(load.reads_ppm)));
    line(&mut out, "\n[expect]".into());
    let quoted = |properties: &[Property]| {
        let names: Vec<String> = properties.iter().map(|p| format!("\"{p}\"")).collect();
        format!("[{}]", names.join(", "))
    };
    line(&mut out, format!("always = {}", quoted(&plan.expect.always)));
    if !plan.expect.violated.is_empty() {
        line(&mut out, format!("violated = {}", quoted(&plan.expect.violated)));
    }
    line(&mut out, format!("\n[sim]\nruns = {runs}"));
    if !origin.is_empty() {
        line(&mut out, "\n[origin]".into());
        for (key, value) in origin {
            line(&mut out, format!("{key} = {value:?}"));
        }
    }
    out
}
