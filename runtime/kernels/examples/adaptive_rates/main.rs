//! Whether time follows cost: adaptive ops with a part of their compute against all of it, and what
//! choosing takes, both as shares of the full time. `--json` prints one array.
//!
//! `cargo run --release -p limbeck-kernels --example adaptive_rates -- [threads] [rounds] [--json]`

mod acm;
mod common;
mod moe;

use limbeck_kernels::Error;

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1).filter_map(|a| a.parse().ok());
    let (threads, rounds) = (arguments.next().unwrap_or(1), arguments.next().unwrap_or(9));
    let json = std::env::args().any(|a| a == "--json");
    let mut cases = Vec::new();
    acm::cases(threads, rounds, &mut cases)?;
    moe::cases(threads, rounds, &mut cases)?;
    if !json {
        println!("{:20} values tokens    part ms    full ms   ratio  choosing", "");
    }
    let mut objects = Vec::new();
    for case in &cases {
        let (what, values, tokens) = (case.what, case.values.name(), case.tokens);
        let (ratio, choosing) = (case.part / case.full, case.overhead / case.full);
        if json {
            objects.push(format!(
                "{{\"what\": \"{what}\", \"share\": {}, \"values\": \"{values}\", \"tokens\": {tokens}, \
                 \"part_ms\": {:.4}, \"full_ms\": {:.4}, \"ratio\": {ratio:.4}, \"choosing\": {choosing:.5}}}",
                case.share, case.part, case.full
            ));
        } else {
            println!(
                "{what:20} {values:6} {tokens:6} {:10.3} {:10.3} {ratio:7.3} {:8.2}%",
                case.part,
                case.full,
                choosing * 100.0
            );
        }
    }
    if json {
        println!("[{}]", objects.join(",\n"));
    }
    Ok(())
}
