//! Settings and statuses as parts of 16 bits, which is how threads share them.

use std::time::Duration;

use super::shared::{pack, unpack};
use crate::budget::{Budget, Limits};
use crate::controller::{Status, Unmet};

/// The budget's kind, and three values of 64 bits: the budget's, the floor, the ceiling.
pub type SettingsParts = [u16; 13];
/// Why the budget is not kept, and two values of 64 bits: the target and the price.
pub type StatusParts = [u16; 9];

pub fn of_settings(budget: Budget, limits: Limits) -> SettingsParts {
    let nanos = |t: Duration| u64::try_from(t.as_nanos()).unwrap_or(u64::MAX);
    let (kind, value) = match budget {
        Budget::Full => (0, 0),
        Budget::Fraction(f) => (1, f.to_bits()),
        Budget::Price(p) => (2, p.to_bits()),
        Budget::Latency(t) => (3, nanos(t)),
        Budget::Deadline(t) => (4, nanos(t)),
    };
    pack(kind, [value, limits.floor.to_bits(), limits.ceiling.to_bits()])
}

pub fn to_settings(parts: SettingsParts) -> (Budget, Limits) {
    let (kind, [value, floor, ceiling]) = unpack(parts);
    let budget = match kind {
        1 => Budget::Fraction(f64::from_bits(value)),
        2 => Budget::Price(f64::from_bits(value)),
        3 => Budget::Latency(Duration::from_nanos(value)),
        4 => Budget::Deadline(Duration::from_nanos(value)),
        _ => Budget::Full,
    };
    (budget, Limits { floor: f64::from_bits(floor), ceiling: f64::from_bits(ceiling) })
}

/// Reasons by their number, from 1 on. One that is not here is told as the last.
const REASONS: [Unmet; 6] =
    [Unmet::Dense, Unmet::Floor, Unmet::BelowFloor, Unmet::Reach, Unmet::Time, Unmet::OffTarget];
const LAST: usize = REASONS.len() - 1;

pub fn of_status(status: Status) -> StatusParts {
    let place = |reason| REASONS.iter().position(|known| *known == reason);
    let number = status.unmet.map_or(0, |reason| 1 + place(reason).unwrap_or(LAST) as u16);
    let price = f64::from(status.price);
    pack(number, [status.target.to_bits(), price.to_bits()])
}

pub fn to_status(parts: StatusParts) -> Status {
    let (number, [target, price]) = unpack(parts);
    let unmet = usize::from(number).checked_sub(1).and_then(|i| REASONS.get(i).copied());
    Status { unmet, target: f64::from_bits(target), price: f64::from_bits(price) as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_comes_back_as_it_was() {
        for unmet in REASONS.map(Some).into_iter().chain([None]) {
            for price in [0.0, 1.0e-30, 7.25, f32::MAX] {
                let status = Status { unmet, target: f64::from(price) / 3.0, price };
                assert_eq!(to_status(of_status(status)), status);
            }
        }
    }
}
