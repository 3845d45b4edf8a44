//! Compiles a checkpoint: `cargo run --example compile_student -- SRC OUT.lbk [QUANT]`.

use limbeck_compiler::{Options, Quant, compile};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(source), Some(output)) = (args.next(), args.next()) else {
        return Err("usage: compile_student SRC OUT.lbk [QUANT]".into());
    };
    let quant: Quant = args.next().as_deref().unwrap_or("keep").parse()?;
    let options = Options {
        source: source.into(),
        output: output.into(),
        quant,
        ignored_keys: Default::default(),
    };
    let report = compile(&options, &mut |done, of, name| eprintln!("{done}/{of} {name}"))?;
    println!("{report:#?}");
    Ok(())
}
