//! Command line of the simulator: `havre-sim run | fuzz | replay | shrink | explain`.
//!
//! Exit codes: 0 as expected, 1 a property was violated, 2 wrong usage or scenario, 3
//! inconclusive, 4 not deterministic, 5 failure of the simulator itself.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use clap::{Parser, Subcommand};
use havre_sim::{
    expect::Property,
    faults::{self, Ending, Recipe, Subject},
    fuzz::{self, Verdict},
    plan::Plan,
    report,
    run::{Engine, Report, RunOptions},
    scenario::{self, Scenario},
    shrink,
};

const VIOLATED: u8 = 1;
const USAGE: u8 = 2;
const INCONCLUSIVE: u8 = 3;
const NOT_DETERMINISTIC: u8 = 4;
const INTERNAL: u8 = 5;

/// Simulates clusters under faults and judges what happens.
#[derive(Parser)]
#[command(name = "havre-sim", version)]
struct Arguments {
    /// What the clusters of seeds run.
    #[arg(long, value_enum, default_value = "mirror", global = true)]
    kind: Subject,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs scenario files, or every one below a folder.
    Run {
        /// Files or folders.
        #[arg(required = true)]
        paths: Vec<PathBuf>,
        /// The engine.
        #[arg(long, value_enum, default_value = "direct")]
        engine: Engine,
        /// Sub-seeds per file, instead of what the file says.
        #[arg(long)]
        runs: Option<u32>,
        /// Seed of the first sub-seed.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Runs fault plans drawn from seeds.
    Fuzz {
        /// Number of seeds.
        #[arg(long, conflicts_with = "budget")]
        seeds: Option<u64>,
        /// Time to spend, such as `90s` or `5min`.
        #[arg(long)]
        budget: Option<String>,
        /// The first seed.
        #[arg(long, default_value_t = 1)]
        first_seed: u64,
        /// The engine.
        #[arg(long, value_enum, default_value = "direct")]
        engine: Engine,
        /// Heals only two of the three members at first: they must serve, if they may.
        #[arg(long)]
        liveness: bool,
        /// Goes on after a violation.
        #[arg(long)]
        keep_going: bool,
        /// Folder for the scenario of a shrunk failure.
        #[arg(long, default_value = ".")]
        export: PathBuf,
    },
    /// Runs one seed twice and shows its timeline.
    Replay {
        /// The seed.
        #[arg(long)]
        seed: u64,
        /// A scenario file; without it the fault plan of the seed.
        #[arg(long)]
        scenario: Option<PathBuf>,
        /// The engine.
        #[arg(long, value_enum, default_value = "direct")]
        engine: Engine,
        /// Heals only two of the three members at first: they must serve, if they may.
        #[arg(long)]
        liveness: bool,
        /// One JSON object per line.
        #[arg(long)]
        jsonl: bool,
        /// Every write, acknowledgement and read too.
        #[arg(long)]
        all: bool,
    },
    /// Makes the fault plan of a failing seed small, and prints it as a scenario.
    Shrink {
        /// The seed.
        #[arg(long)]
        seed: u64,
        /// The engine.
        #[arg(long, value_enum, default_value = "direct")]
        engine: Engine,
        /// Heals only two of the three members at first: they must serve, if they may.
        #[arg(long)]
        liveness: bool,
        /// Runs to spend.
        #[arg(long, default_value_t = 2_000)]
        runs: u32,
    },
    /// Shows the fault plan of a seed as a scenario.
    Explain {
        /// The seed.
        #[arg(long)]
        seed: u64,
        /// Heals only two of the three members at first: they must serve, if they may.
        #[arg(long)]
        liveness: bool,
    },
    /// Measures the direct engine: ten minutes of a pair and its witness, with faults.
    Bench {
        /// Runs.
        #[arg(long, default_value_t = 100)]
        runs: u64,
    },
}

fn main() -> ExitCode {
    // A panic inside a run is caught and reported as a violation: its text is enough.
    std::panic::set_hook(Box::new(|_| {}));
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = if error.use_stderr() { USAGE } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let outcome = std::panic::catch_unwind(|| perform(arguments.kind, arguments.command));
    ExitCode::from(outcome.unwrap_or_else(|_| {
        eprintln!("internal error of the simulator");
        INTERNAL
    }))
}

fn perform(subject: Subject, command: Command) -> u8 {
    let recipe = |liveness| Recipe { subject, ending: ending(liveness) };
    match command {
        Command::Run { paths, engine, runs, seed } => run(engine, &paths, runs, seed),
        Command::Fuzz { seeds, budget, first_seed, engine, liveness, keep_going, export } => {
            let budget = match budget.as_deref().map(scenario::parse_span).transpose() {
                Ok(budget) => budget,
                Err(message) => return usage(&message),
            };
            let recipe = recipe(liveness);
            let limits = Limits { engine, recipe, seeds, budget, first: first_seed, keep_going };
            fuzz_seeds(&limits, &export)
        }
        Command::Replay { seed, scenario, engine, liveness, jsonl, all } => {
            let plan = || recipe(liveness).plan(seed);
            replay(engine, seed, (scenario.as_deref(), &plan), jsonl, all)
        }
        Command::Shrink { seed, engine, liveness, runs } => {
            shrink_seed(engine, &recipe(liveness).plan(seed), seed, runs)
        }
        Command::Bench { runs } => bench(runs),
        Command::Explain { seed, liveness } => {
            let plan = recipe(liveness).plan(seed);
            print!(
                "{}",
                scenario::export(
                    &plan,
                    "The fault plan of one seed.",
                    20,
                    &origin(Engine::Direct, seed)
                )
            );
            0
        }
    }
}

const fn ending(liveness: bool) -> Ending {
    if liveness { Ending::Core } else { Ending::Heal }
}

fn usage(message: &str) -> u8 {
    eprintln!("{message}");
    USAGE
}

fn origin(engine: Engine, seed: u64) -> Vec<(&'static str, String)> {
    vec![
        ("seed", seed.to_string()),
        ("engine", engine.name().to_owned()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
    ]
}

fn read_scenario(path: &Path) -> Result<Scenario, String> {
    let name = path.display().to_string();
    let source = std::fs::read_to_string(path).map_err(|error| format!("{name}: {error}"))?;
    Scenario::parse(&name, &source).map_err(|error| error.to_string())
}

fn run(engine: Engine, paths: &[PathBuf], runs: Option<u32>, base: u64) -> u8 {
    let mut files = Vec::new();
    for path in paths {
        if let Err(error) = scenario::files_below(path, &mut files) {
            return usage(&format!("{}: {error}", path.display()));
        }
    }
    if files.is_empty() {
        return usage("no scenario files");
    }
    let name = engine.name();
    let repeat =
        format!("seed={base} engine={name} -> havre-sim run --engine {name} --seed {base}");
    println!("{repeat} PATH");
    let mut worst = 0;
    for file in &files {
        let scenario = match read_scenario(file) {
            Ok(scenario) => scenario,
            Err(message) => return usage(&message),
        };
        let mut count = runs.unwrap_or_else(|| engine.runs_first(scenario.runs));
        let began = Instant::now();
        let mut verdict = fuzz::run_scenario(engine, &scenario, base, count);
        if matches!(verdict, Verdict::Inconclusive(_)) && count < runs.unwrap_or(scenario.runs) {
            count = scenario.runs;
            verdict = fuzz::run_scenario(engine, &scenario, base, count);
        }
        let took = began.elapsed().as_millis();
        let file = file.display();
        match verdict {
            Verdict::Passed => println!("pass          {file} ({count} runs, {took} ms)"),
            Verdict::Inconclusive(why) => {
                println!("inconclusive  {file}: {why}");
                worst = if worst == VIOLATED { VIOLATED } else { INCONCLUSIVE };
            }
            Verdict::Violated { seed, violation } => {
                println!("VIOLATED      {file}: {}: {}", violation.property, violation.text);
                println!(
                    "              havre-sim replay --engine {name} --scenario {file} --seed {seed}"
                );
                worst = VIOLATED;
            }
        }
    }
    println!("{repeat} PATH");
    worst
}

struct Limits {
    engine: Engine,
    recipe: Recipe,
    seeds: Option<u64>,
    budget: Option<std::time::Duration>,
    first: u64,
    keep_going: bool,
}

fn fuzz_seeds(limits: &Limits, export: &Path) -> u8 {
    let count = limits.seeds.unwrap_or(if limits.budget.is_some() { u64::MAX } else { 1_000 });
    let first = limits.first;
    let engine = limits.engine.name();
    let flag = limits.recipe.flags();
    let repeat = format!("havre-sim fuzz --engine {engine} --first-seed {first}{flag}");
    println!("seed={first} engine={engine} -> {repeat}");
    let began = Instant::now();
    let (mut done, mut simulated_s, mut acked, mut failed) = (0_u64, 0_u64, 0_u64, 0_u64);
    let options = RunOptions { stop_at_violation: true, ..RunOptions::default() };
    while done < count && limits.budget.is_none_or(|budget| began.elapsed() < budget) {
        let seed = first + done;
        let report = fuzz::perform(limits.engine, &limits.recipe.plan(seed), seed, options);
        done += 1;
        simulated_s += report.ended.as_micros() / 1_000_000;
        acked += report.acked;
        let Some(violation) = report.violations.first() else { continue };
        failed += 1;
        println!("seed {seed}: at {} {}: {}", violation.at, violation.property, violation.text);
        if !limits.keep_going {
            explain_failure(limits, seed, violation.property, export);
            break;
        }
    }
    let took = began.elapsed().as_secs_f64();
    println!(
        "{done} seeds, {failed} failed, {simulated_s} simulated s, {acked} acknowledged \
         transactions, {took:.1} s, {:.0} simulated s per s",
        simulated_s as f64 / took.max(1e-9)
    );
    println!("seed={first} engine={engine} -> {repeat} --seeds {done}");
    if failed > 0 { VIOLATED } else { 0 }
}

fn explain_failure(limits: &Limits, seed: u64, property: Property, export: &Path) {
    let engine = limits.engine;
    let flag = limits.recipe.flags();
    println!("  havre-sim replay --seed {seed} --engine {}{flag}", engine.name());
    let plan = limits.recipe.plan(seed);
    let run = |plan: &Plan, options| fuzz::perform(engine, plan, seed, options);
    let shrunk = shrink::shrink(&plan, property, 500, &run);
    println!("  {} faults shrunk to {} in {} runs", shrunk.before, shrunk.after, shrunk.runs);
    let report = run(&shrunk.plan, RunOptions { record: true, stop_at_violation: true });
    print!("{}", report::excerpt(&report));
    let name = export.join(format!("fail-{property}-{seed}.toml"));
    let text = exported(engine, &shrunk.plan, seed, property, &report);
    match std::fs::write(&name, text) {
        Ok(()) => println!("  exported to {}", name.display()),
        Err(error) => eprintln!("  {}: {error}", name.display()),
    }
}

fn exported(engine: Engine, plan: &Plan, seed: u64, property: Property, report: &Report) -> String {
    let mut origin = origin(engine, seed);
    origin.push(("rule", property.to_string()));
    origin.push(("trace_hash", format!("{:016x}", report.hash)));
    let about = report.violations.first().map_or_else(String::new, |v| v.text.clone());
    scenario::export(plan, &about, 200, &origin)
}

fn replay(
    engine: Engine,
    seed: u64,
    (file, plan): (Option<&Path>, &dyn Fn() -> Plan),
    jsonl: bool,
    all: bool,
) -> u8 {
    let plan = match file.map(read_scenario).transpose() {
        Ok(scenario) => scenario.map_or_else(plan, |scenario| scenario.plan),
        Err(message) => return usage(&message),
    };
    let name = file.map_or_else(String::new, |file| format!(" --scenario {}", file.display()));
    let engine_name = engine.name();
    let command = format!(
        "seed={seed} engine={engine_name} -> \
         havre-sim replay --engine {engine_name} --seed {seed}{name}"
    );
    let options = RunOptions { record: true, stop_at_violation: file.is_none() };
    let report = fuzz::perform(engine, &plan, seed, options);
    if !jsonl {
        println!("{command}");
    }
    let text = if jsonl { report::jsonl(&report) } else { report::timeline(&report, all) };
    print!("{text}");
    if !jsonl {
        println!("{} events, hash {:016x}", report.events, report.hash);
        println!("{command}");
    }
    if fuzz::perform(engine, &plan, seed, options) != report {
        eprintln!("the same seed ran differently a second time");
        return NOT_DETERMINISTIC;
    }
    let wrong = |p: &Property| !plan.expect.violated.contains(p);
    if report.violated().iter().any(wrong) { VIOLATED } else { 0 }
}

fn shrink_seed(engine: Engine, plan: &Plan, seed: u64, runs: u32) -> u8 {
    let run = |plan: &Plan, options| fuzz::perform(engine, plan, seed, options);
    let report = run(plan, RunOptions { stop_at_violation: true, ..RunOptions::default() });
    let Some(violation) = report.violations.first() else {
        println!("seed {seed} violates nothing");
        return 0;
    };
    let shrunk = shrink::shrink(plan, violation.property, runs, &run);
    eprintln!("{} faults shrunk to {} in {} runs", shrunk.before, shrunk.after, shrunk.runs);
    let report = run(&shrunk.plan, RunOptions { record: true, stop_at_violation: true });
    eprint!("{}", report::excerpt(&report));
    print!("{}", exported(engine, &shrunk.plan, seed, violation.property, &report));
    VIOLATED
}

fn bench(runs: u64) -> u8 {
    let began = Instant::now();
    let (mut simulated_s, mut events, mut acked) = (0, 0, 0);
    for seed in 1..=runs {
        let plan = faults::ten_minutes(seed);
        let report = fuzz::perform(Engine::Direct, &plan, seed, RunOptions::default());
        simulated_s += report.ended.as_micros() / 1_000_000;
        events += report.events;
        acked += report.acked;
        if let Some(violation) = report.violations.first() {
            println!("seed {seed}: {}: {}", violation.property, violation.text);
            return VIOLATED;
        }
    }
    let took = began.elapsed().as_secs_f64().max(1e-9);
    println!(
        "{runs} runs of ten minutes in {took:.2} s: {:.1} runs per s, {:.0} simulated s per s, \
         {:.2} million events per s, {:.0} events and {:.1} transactions per simulated s",
        simulated_s as f64 / 600.0 / took,
        simulated_s as f64 / took,
        events as f64 / took / 1e6,
        events as f64 / simulated_s.max(1) as f64,
        acked as f64 / simulated_s.max(1) as f64
    );
    0
}
