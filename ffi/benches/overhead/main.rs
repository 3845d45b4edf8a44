//! What a decode step through C takes beside the same step in Rust: `overhead PLAN THREADS STEPS` prints
//! an object of medians, in nanoseconds, over so many steps each way.

mod steps;

use std::path::Path;

use steps::Steps;

fn main() {
    let given: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let [plan, threads, count] = &given[..] else {
        eprintln!("overhead PLAN THREADS STEPS");
        std::process::exit(2);
    };
    let threads = threads.parse().expect("a number of threads");
    let count: usize = count.parse().expect("a number of steps");
    assert!(count > 0, "at least one step");
    let [rust, c, ratio] = Steps::take(Path::new(plan), threads, count).medians();
    println!("{{\"threads\": {threads}, \"rust_ns\": {rust}, \"c_ns\": {c}, \"ratio\": {ratio}}}");
}
