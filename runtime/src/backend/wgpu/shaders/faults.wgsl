// Keeps the first step that met an index which does not exist, and one such index of it.

fn report(index: u32) {
    if atomicLoad(&made[P.fault]) == 0u || atomicLoad(&made[P.fault]) == P.step {
        atomicStore(&made[P.fault], P.step);
        atomicStore(&made[P.fault + 1u], index);
    }
}
