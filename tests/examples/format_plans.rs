//! Writes the committed plans of the plan format (`tests/golden/plans`). Only for a new major version:
//! that the old ones go on being read is what they are for.

fn main() -> std::io::Result<()> {
    for plan in limbeck_tests::FORMAT_PLANS {
        std::fs::copy(plan.compile().path(), plan.path())?;
        println!("{}", plan.path().display());
    }
    Ok(())
}
