// Items of a group that shares a sum.
const LANES: u32 = 64u;
