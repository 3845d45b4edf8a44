//! Follows a target fraction: the curve as feed-forward, what was spent as feedback.

use super::curve::Curve;

/// Tokens over which a debt is paid back. Noise of tokens that are independent of one another then
/// adds about 1.5 of one token's deviation to the sum, however many there are.
const PAYBACK: f64 = 4.0;
/// By how much of the target the fraction of one call may depart from it to pay a debt back, where a
/// call is judged by itself: what an encoder gives for a small batch must not suffer for the ones before.
const CALL_STEP: f64 = 0.04;
/// The same in the logarithm of the price, for curves that are less steep than the student.
const CALL_PRICE_STEP: f64 = 0.15;
/// Most tokens of full compute that may be owed either way: a target that could not be followed for
/// long must not be paid for ever.
const MAX_DEBT: f64 = 128.0;
/// Share of a debt that a token keeps where only the present counts.
const LEAK: f64 = 0.9;
/// How fast the curve's shift follows one token.
const LEARN: f64 = 0.15;
/// Largest shift, and largest step that one observation may ask for, in the logarithm of the price.
const MAX_SHIFT: f64 = 10.0;
const MAX_STEP: f64 = 1.4;
/// Where calls are judged by themselves, an observation of many tokens is believed at once. A curve that is
/// not steep enough then asks for steps that are too large, now up and now down: the largest
/// step shrinks where the direction turns, down to the least, and grows where it stays.
const CALL_MAX_SHIFT_STEP: f64 = 2.2;
const SHRINK: f64 = 0.4;
const GROW: f64 = 1.5;
const LEAST_STEP: f64 = 0.02;
/// Slope of the curve below which an observation says little about the shift, as a share of the
/// reachable interval.
const MIN_SLOPE: f64 = 0.05;

/// Finds the price for a target fraction.
#[derive(Clone, Debug)]
pub(super) struct Tracker {
    curve: Curve,
    /// The fraction at a price is that of the curve at `price * exp(shift)`.
    shift: f64,
    /// Tokens observed at prices that say something about the shift.
    seen: f64,
    /// Multiply-adds that the target allowed and that were not spent.
    debt: f64,
    /// Multiply-adds of a token at full compute, as of late.
    per_token: f64,
    /// Whether each call is judged by itself.
    per_call: bool,
    /// Largest step of the shift, and the last step.
    most_step: f64,
    last_step: f64,
}

impl Tracker {
    pub fn new(curve: Curve) -> Tracker {
        Tracker {
            curve,
            shift: 0.0,
            seen: 0.0,
            debt: 0.0,
            per_token: 0.0,
            per_call: false,
            most_step: MAX_STEP,
            last_step: 0.0,
        }
    }

    /// One for calls that are judged by themselves: each is served near the target, and a debt is paid
    /// back over several.
    pub fn per_call(curve: Curve) -> Tracker {
        Tracker { per_call: true, most_step: CALL_MAX_SHIFT_STEP, ..Tracker::new(curve) }
    }

    pub fn curve(&self) -> &Curve {
        &self.curve
    }

    /// Forgets what is owed, not what was learned.
    pub fn restart(&mut self) {
        self.debt = 0.0;
        self.most_step = if self.per_call { CALL_MAX_SHIFT_STEP } else { MAX_STEP };
    }

    /// The price for the next `tokens` tokens.
    pub fn price(&self, target: f64, tokens: f64) -> f64 {
        let owed = if self.per_token > 0.0 { self.debt / self.per_token } else { 0.0 };
        let paid = owed / tokens.max(PAYBACK);
        let price = match self.per_call {
            true => self.near(target, paid),
            false => self.at(target + paid),
        } * (-self.shift).exp();
        price.clamp(0.0, self.curve.max_price())
    }

    /// The curve's price for a fraction that it reaches.
    fn at(&self, fraction: f64) -> f64 {
        self.curve.price(fraction.clamp(self.curve.lowest(), self.curve.highest()))
    }

    /// The curve's price for a fraction off the target, not far from the target's own.
    fn near(&self, target: f64, paid: f64) -> f64 {
        let most = CALL_STEP * target;
        let (exact, price) = (self.at(target), self.at(target + paid.clamp(-most, most)));
        let factor = CALL_PRICE_STEP.exp();
        price.clamp(exact / factor, exact * factor)
    }

    /// Takes note that `tokens` tokens spent `macs` of `full` multiply-adds at `price`.
    /// With a target the difference to it is owed; only for a while where it is `leaky`.
    pub fn observe(
        &mut self,
        price: f64,
        tokens: f64,
        macs: f64,
        full: f64,
        target: Option<f64>,
        leaky: bool,
    ) {
        self.per_token = full / tokens;
        if let Some(target) = target {
            if leaky {
                self.debt *= LEAK;
            }
            let most = MAX_DEBT * self.per_token;
            self.debt = (self.debt + target * full - macs).clamp(-most, most);
        }
        self.learn(price, tokens, macs / full);
    }

    fn learn(&mut self, price: f64, tokens: f64, fraction: f64) {
        let span = self.curve.highest() - self.curve.lowest();
        if price <= 0.0 || span <= 0.0 {
            return;
        }
        let shifted = price * self.shift.exp();
        let error = self.curve.fraction(shifted) - fraction;
        let step = error / self.curve.slope(shifted).max(MIN_SLOPE * span);
        self.seen += tokens;
        let rate = (tokens / (self.seen + 1.0)).max(1.0 - (1.0 - LEARN).powf(tokens));
        if self.per_call {
            let factor = if step * self.last_step < 0.0 { SHRINK } else { GROW };
            self.most_step = (self.most_step * factor).clamp(LEAST_STEP, CALL_MAX_SHIFT_STEP);
        }
        let step = rate * step.clamp(-self.most_step, self.most_step);
        self.last_step = step;
        self.shift = (self.shift + step).clamp(-MAX_SHIFT, MAX_SHIFT);
    }
}
