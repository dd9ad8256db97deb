//! One line of a timeline: an inline table with a moment, a verb and its modifiers.

use std::time::Duration;

use havre_core::effect::ModuleOrder;
use serde::Deserialize;

use super::{
    checks::{CHANGES, question},
    ppm,
};
use crate::{
    disk::DiskFaults,
    expect::{Condition, Property},
    net::Weather,
    plan::{Action, DiskStep, ScriptFault, ScriptKind, Selector, Step, Trigger, When},
    time::{SimTime, micros},
};

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStep {
    at: Option<String>,
    after: Option<String>,
    when: Option<String>,
    nth: Option<u64>,
    delay: Option<String>,

    cut: Option<String>,
    heal: Option<String>,
    isolate: Option<String>,
    power_cut: Option<String>,
    power_on: Option<String>,
    crash: Option<String>,
    pause: Option<String>,
    resume: Option<String>,
    slow: Option<String>,
    drift: Option<String>,
    weather: Option<String>,
    disk: Option<String>,
    script: Option<String>,
    order: Option<String>,
    check: Option<String>,
    ask: Option<String>,
    write: Option<String>,
    load: Option<String>,
    calm: Option<bool>,
    expect: Option<String>,
    hold: Option<String>,
    settled: Option<bool>,
    end: Option<bool>,

    #[serde(rename = "in")]
    inside: Option<String>,
    back_after: Option<String>,
    #[serde(rename = "for")]
    span: Option<String>,
    within: Option<String>,
    net: Option<u8>,
    lag: Option<String>,
    ppm: Option<i32>,
    spread: Option<[String; 2]>,
    loss: Option<f64>,
    duplicate: Option<f64>,
    reorder: Option<f64>,
    fault: Option<String>,
    times: Option<u32>,
    #[serde(rename = "do")]
    what: Option<String>,
    by: Option<String>,
    of: Option<String>,
}

/// Reads a span such as `300ms`, `2s`, `1.5s`, `40us` or `2min`.
pub fn parse_span(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit.trim() {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        "min" => 60e6,
        _ => return Err(format!("`{text}` is no span: write 40us, 300ms, 1.5s or 2min")),
    };
    let number: f64 = number.parse().map_err(|_| format!("`{text}` is no span"))?;
    Ok(Duration::from_micros((number * scale).round() as u64))
}

/// The names of triggers.
pub(super) const TRIGGERS: [(&str, Trigger); 11] = [
    ("promotion", Trigger::Promotion),
    ("resync starts", Trigger::ResyncStarts),
    ("resync ends", Trigger::ResyncEnds),
    ("ack", Trigger::Ack),
    ("write", Trigger::Write),
    ("address set", Trigger::AddressSet),
    ("address removed", Trigger::AddressRemoved),
    ("right lost", Trigger::RightLost),
    ("stop script", Trigger::StopScript),
    ("record", Trigger::Record),
    ("solo", Trigger::Solo),
];

/// The names of orders.
pub(super) const ORDERS: [(&str, ModuleOrder); 14] = [
    ("start", ModuleOrder::Start),
    ("prim", ModuleOrder::Prim { full_resync: false, force: false }),
    ("prim fullsync", ModuleOrder::Prim { full_resync: true, force: false }),
    ("prim force", ModuleOrder::Prim { full_resync: false, force: true }),
    ("second", ModuleOrder::Second { full_resync: false }),
    ("second fullsync", ModuleOrder::Second { full_resync: true }),
    ("stop", ModuleOrder::Stop),
    ("forcestop", ModuleOrder::ForceStop),
    ("restart", ModuleOrder::Restart),
    ("stopstart", ModuleOrder::StopStart),
    ("swap", ModuleOrder::Swap),
    ("drain", ModuleOrder::Drain { stop: false }),
    ("drain stop", ModuleOrder::Drain { stop: true }),
    ("undrain", ModuleOrder::Undrain),
];

fn named<T: Copy>(names: &[(&str, T)], text: &str, what: &str) -> Result<T, String> {
    names.iter().find(|(name, _)| *name == text).map(|(_, value)| *value).ok_or_else(|| {
        let known: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
        format!("unknown {what} `{text}`; known: {}", known.join(", "))
    })
}

fn span(text: Option<&String>) -> Result<Option<Duration>, String> {
    text.map(|text| parse_span(text)).transpose()
}

/// Two sides: `a | b` in both directions, `a > b` in one.
fn sides(text: &str) -> Result<(Selector, Selector, bool), String> {
    let (both, halves) = match text.split_once('|') {
        Some(halves) => (true, halves),
        None => match text.split_once('>') {
            Some(halves) => (false, halves),
            None => {
                return Err(format!("`{text}`: write `a | b` (both ways) or `a > b` (one way)"));
            }
        },
    };
    Ok((halves.0.trim().parse()?, halves.1.trim().parse()?, both))
}

fn conditions(text: &str) -> Result<Vec<Condition>, String> {
    text.split(',').map(|part| part.trim().parse()).collect()
}

pub(super) fn read(raw: &RawStep, line: usize) -> Result<Step, String> {
    let mut taken = Taken::default();
    let when = raw.when(&mut taken)?;
    let action = raw.action(&mut taken)?;
    raw.refuse_unused(&taken)?;
    Ok(Step { when, action, line: Some(line) })
}

/// Modifiers that the verb has used: any other one in the line is a mistake.
#[derive(Default)]
struct Taken(Vec<&'static str>);

impl RawStep {
    fn when(&self, taken: &mut Taken) -> Result<When, String> {
        match (&self.at, &self.after, &self.when) {
            (Some(at), None, None) => Ok(When::At(SimTime::from_micros(micros(parse_span(at)?)))),
            (None, Some(after), None) => Ok(When::After(parse_span(after)?)),
            (None, None, Some(event)) => {
                taken.0.extend(["nth", "delay"]);
                Ok(When::Event {
                    trigger: named(&TRIGGERS, event, "event")?,
                    nth: self.nth.unwrap_or(1).max(1),
                    delay: span(self.delay.as_ref())?.unwrap_or_default(),
                })
            }
            (None, None, None) => Ok(When::After(Duration::ZERO)),
            _ => Err("a step has one of `at`, `after` and `when`".into()),
        }
    }

    fn verbs(&self) -> Vec<&'static str> {
        let texts = [
            ("cut", &self.cut),
            ("heal", &self.heal),
            ("isolate", &self.isolate),
            ("power_cut", &self.power_cut),
            ("power_on", &self.power_on),
            ("crash", &self.crash),
            ("pause", &self.pause),
            ("resume", &self.resume),
            ("slow", &self.slow),
            ("drift", &self.drift),
            ("weather", &self.weather),
            ("disk", &self.disk),
            ("script", &self.script),
            ("order", &self.order),
            ("check", &self.check),
            ("ask", &self.ask),
            ("write", &self.write),
            ("load", &self.load),
            ("expect", &self.expect),
            ("hold", &self.hold),
        ];
        let flags = [("calm", self.calm), ("settled", self.settled), ("end", self.end)];
        let texts = texts.into_iter().filter(|(_, v)| v.is_some()).map(|(name, _)| name);
        let flags = flags.into_iter().filter(|(_, v)| *v == Some(true)).map(|(name, _)| name);
        texts.chain(flags).collect()
    }

    fn action(&self, taken: &mut Taken) -> Result<Action, String> {
        let verbs = self.verbs();
        let [verb] = verbs.as_slice() else {
            return Err(format!("a step has exactly one verb, not {}", verbs.len()));
        };
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let who = |value: &Option<String>| text(value).parse::<Selector>();
        let mut uses = |names: &[&'static str]| taken.0.extend(names);
        Ok(match *verb {
            "cut" => {
                uses(&["net"]);
                let (from, to, both) = sides(&text(&self.cut))?;
                Action::Cut { from, to, both, net: self.net }
            }
            "heal" if self.heal.as_deref() == Some("all") => Action::HealAll,
            "heal" => {
                let (from, to, _) = sides(&text(&self.heal))?;
                Action::Heal { from, to }
            }
            "isolate" => Action::Isolate(who(&self.isolate)?),
            "power_cut" => {
                uses(&["in", "back_after"]);
                let in_write = match self.inside.as_deref() {
                    None => false,
                    Some("write") => true,
                    Some(other) => return Err(format!("`in` is `write`, not `{other}`")),
                };
                let back_after = span(self.back_after.as_ref())?;
                Action::PowerCut { who: who(&self.power_cut)?, in_write, back_after }
            }
            "power_on" => Action::PowerOn(who(&self.power_on)?),
            "crash" => {
                uses(&["back_after"]);
                let back_after = span(self.back_after.as_ref())?;
                Action::Crash { who: who(&self.crash)?, back_after }
            }
            "pause" => {
                uses(&["for"]);
                Action::Pause { who: who(&self.pause)?, span: span(self.span.as_ref())? }
            }
            "resume" => Action::Resume(who(&self.resume)?),
            "slow" => {
                uses(&["lag", "for"]);
                let lag = span(self.lag.as_ref())?.ok_or("`slow` needs `lag`")?;
                Action::Slow { who: who(&self.slow)?, lag, span: span(self.span.as_ref())? }
            }
            "drift" => {
                uses(&["ppm"]);
                let ppm = self.ppm.ok_or("`drift` needs `ppm`")?;
                if ppm.abs() > 10_000 {
                    return Err("clocks drift by 10000 ppm (1 %) at most".into());
                }
                Action::Drift { who: who(&self.drift)?, ppm }
            }
            "order" => {
                uses(&["do", "by"]);
                let order = self.what.as_ref().ok_or("`order` needs `do`")?;
                let (who, order) = (who(&self.order)?, named(&ORDERS, order, "order")?);
                match self.by.as_deref() {
                    None => Action::Order { who, order },
                    Some("detector") => Action::OrderBy { who, order },
                    Some(other) => return Err(format!("`by` is `detector`, not `{other}`")),
                }
            }
            "check" => {
                uses(&["of", "do"]);
                let what = self.of.clone().ok_or("`check` needs `of`, the name of a resource")?;
                let to = self.what.as_ref().ok_or("`check` needs `do`")?;
                let to = named(&CHANGES, to, "change")?;
                Action::Check { who: who(&self.check)?, what, to }
            }
            "ask" => {
                uses(&["do"]);
                let what = self.what.as_ref().ok_or("`ask` needs `do`")?;
                Action::Ask { who: who(&self.ask)?, what: question(what)? }
            }
            "write" => Action::Write(who(&self.write)?),
            "load" => match self.load.as_deref() {
                Some("on") => Action::Load(true),
                Some("off") => Action::Load(false),
                _ => return Err("`load` is `on` or `off`".into()),
            },
            "calm" => Action::Calm,
            "settled" => Action::Settled,
            "end" => Action::End,
            "expect" => {
                uses(&["within"]);
                Action::Expect {
                    conditions: conditions(&text(&self.expect))?,
                    within: span(self.within.as_ref())?.unwrap_or_default(),
                    property: Property::Expected,
                }
            }
            "hold" => {
                uses(&["for"]);
                let span = span(self.span.as_ref())?.ok_or("`hold` needs `for`")?;
                Action::Hold { conditions: conditions(&text(&self.hold))?, span }
            }
            "weather" => {
                uses(&["for", "spread", "loss", "duplicate", "reorder"]);
                self.weather()?
            }
            "disk" => {
                uses(&["for", "fault"]);
                self.disk()?
            }
            "script" => {
                uses(&["fault", "times"]);
                self.script()?
            }
            other => return Err(format!("unknown verb `{other}`")),
        })
    }

    fn weather(&self) -> Result<Action, String> {
        let (from, to, _) = sides(self.weather.as_deref().unwrap_or_default())?;
        let mut weather = Weather {
            loss_ppm: ppm(self.loss.unwrap_or(0.0)),
            duplicate_ppm: ppm(self.duplicate.unwrap_or(0.0)),
            reorder_ppm: ppm(self.reorder.unwrap_or(0.0)),
            ..Weather::default()
        };
        if let Some([low, high]) = &self.spread {
            weather.delay_us = (micros(parse_span(low)?), micros(parse_span(high)?));
        }
        Ok(Action::Weather { from, to, weather, span: span(self.span.as_ref())? })
    }

    fn disk(&self) -> Result<Action, String> {
        let who = self.disk.as_deref().unwrap_or_default().parse()?;
        let fault = self.fault.as_deref().ok_or("`disk` needs `fault`")?;
        let mut words = fault.split_whitespace();
        let name = words.next().unwrap_or_default();
        let amount: Option<f64> = match words.next() {
            Some(word) => Some(word.parse().map_err(|_| format!("`{word}` is no number"))?),
            None => None,
        };
        let rate = ppm(amount.unwrap_or(1.0));
        let healthy = DiskFaults::default();
        let faults = match name {
            "healthy" => healthy,
            "full" => DiskFaults { full: true, ..healthy },
            "slow" => DiskFaults { slowdown: amount.unwrap_or(10.0) as u32, ..healthy },
            "read-errors" => DiskFaults { read_error_ppm: rate, ..healthy },
            "write-errors" => DiskFaults { write_error_ppm: rate, ..healthy },
            "flush-errors" => DiskFaults { flush_error_ppm: rate, ..healthy },
            "lying-flush" => DiskFaults { lying_flush: true, ..healthy },
            "misdirect" => DiskFaults { misdirect_ppm: rate, ..healthy },
            "rot" => return Ok(Action::Disk { who, fault: DiskStep::Rot, span: None }),
            "replace" => return Ok(Action::Disk { who, fault: DiskStep::Replace, span: None }),
            other => {
                return Err(format!(
                    "unknown disk fault `{other}`; known: healthy, full, slow N, read-errors P, \
                     write-errors P, flush-errors P, lying-flush, misdirect P, rot, replace"
                ));
            }
        };
        let span = span(self.span.as_ref())?;
        Ok(Action::Disk { who, fault: DiskStep::Faults(faults), span })
    }

    fn script(&self) -> Result<Action, String> {
        let who = self.script.as_deref().unwrap_or_default().parse()?;
        let fault = self.fault.as_deref().ok_or("`script` needs `fault`")?;
        let (kind, fault) = match fault {
            "start hangs" => (ScriptKind::Start, ScriptFault::Hang),
            "start fails" => (ScriptKind::Start, ScriptFault::Fail),
            "stop hangs" => (ScriptKind::Stop, ScriptFault::Hang),
            "stop fails" => (ScriptKind::Stop, ScriptFault::Fail),
            other => {
                return Err(format!(
                    "unknown script fault `{other}`; known: start hangs, start fails, stop hangs, \
                     stop fails"
                ));
            }
        };
        Ok(Action::Script { who, kind, fault, times: self.times.unwrap_or(1) })
    }

    fn refuse_unused(&self, taken: &Taken) -> Result<(), String> {
        let given = [
            ("nth", self.nth.is_some()),
            ("delay", self.delay.is_some()),
            ("in", self.inside.is_some()),
            ("back_after", self.back_after.is_some()),
            ("for", self.span.is_some()),
            ("within", self.within.is_some()),
            ("net", self.net.is_some()),
            ("lag", self.lag.is_some()),
            ("ppm", self.ppm.is_some()),
            ("spread", self.spread.is_some()),
            ("loss", self.loss.is_some()),
            ("duplicate", self.duplicate.is_some()),
            ("reorder", self.reorder.is_some()),
            ("fault", self.fault.is_some()),
            ("times", self.times.is_some()),
            ("do", self.what.is_some()),
            ("by", self.by.is_some()),
            ("of", self.of.is_some()),
        ];
        match given.iter().find(|(name, given)| *given && !taken.0.contains(name)) {
            Some((name, _)) => Err(format!("`{name}` means nothing to this verb")),
            None => Ok(()),
        }
    }
}
