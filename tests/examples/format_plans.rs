//! Writes the committed plans of the plan format (`tests/golden/plans`) that are missing: those of a new layout. That
//! the others go on being read is what they are for.

fn main() -> std::io::Result<()> {
    for plan in limbeck_tests::FORMAT_PLANS.iter().filter(|plan| !plan.path().exists()) {
        std::fs::copy(plan.compile().path(), plan.path())?;
        println!("{}", plan.path().display());
    }
    Ok(())
}
