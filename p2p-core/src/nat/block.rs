//! The block of ports that a carrier's NAT gave us (RFC 7422), inferred from the ports it used.

use super::PortRange;
use super::verdict::Known;

/// The smallest block looked for, in ports.
pub const SMALLEST: u16 = 64;
/// The largest block looked for, in ports.
pub const LARGEST: u16 = 8_192;
/// The port from which most NATs count blocks, as they hand out none below it. Some count from 0.
const ORIGIN: u16 = 1_024;
/// The number of ports that a NAT without blocks can choose from.
const PORTS: f64 = 64_512.0;
/// The ports at which ranges of ports usually begin and end.
const FIRSTS: [u16; 7] = [1, 1_024, 10_000, 16_384, 32_768, 35_000, 49_152];
const LASTS: [u16; 3] = [49_151, 60_999, 65_535];

/// Returns the block that all `ports` are from. It is `None` when there are fewer than three, or they are too far
/// apart for one block.
///
/// Blocks are powers of two, [`SMALLEST`] to [`LARGEST`], that count from 1,024, or from 0 when only such a one fits.
/// Of the blocks that hold all ports, the smallest explains them best. A block twice that size has another half, and
/// each port that did not fall into it halves the odds of that block.
pub fn infer(ports: &[u16]) -> Option<Known<PortRange>> {
    let (first, last) = (*ports.iter().min()?, *ports.iter().max()?);
    if ports.len() < 3 {
        return None;
    }
    let sizes = || std::iter::successors(Some(SMALLEST), |size| size.checked_mul(2));
    let found = sizes()
        .take_while(|size| *size <= LARGEST)
        .find_map(|size| [ORIGIN, 0].into_iter().find_map(|origin| aligned(first, last, size, origin)))?;
    let exponent = 1.0 - ports.len() as f64;
    let weight = |size: f64| size.powf(exponent);
    let size = f64::from(found.size());
    let larger: f64 = std::iter::successors(Some(size * 2.0), |size| Some(size * 2.0))
        .take_while(|size| *size < PORTS)
        .chain([PORTS])
        .map(weight)
        .sum();
    Some(Known::measured(found, weight(size) / (weight(size) + larger)))
}

fn aligned(first: u16, last: u16, size: u16, origin: u16) -> Option<PortRange> {
    let index = first.checked_sub(origin)? / size;
    let start = u32::from(origin) + u32::from(index) * u32::from(size);
    let end = u16::try_from(start + u32::from(size) - 1).ok()?;
    (last <= end).then_some(PortRange { first: start as u16, last: end })
}

/// Returns the range that random ports are from, or `None` for fewer than six. It reaches beyond the outermost ports
/// by their average distance, or to a usual bound near there.
pub fn range(ports: &[u16]) -> Option<Known<PortRange>> {
    let (first, last) = (*ports.iter().min()?, *ports.iter().max()?);
    if ports.len() < 6 {
        return None;
    }
    let gap = (f64::from(last - first) / (ports.len() - 1) as f64).ceil();
    let near = |usual: &u16, port: f64| (f64::from(*usual) - port).abs() <= 2.0 * gap;
    let (low, high) = ((f64::from(first) - gap).max(1.0), (f64::from(last) + gap).min(65_535.0));
    let usual_first = FIRSTS.iter().rev().find(|usual| **usual <= first && near(usual, low));
    let usual_last = LASTS.iter().find(|usual| **usual >= last && near(usual, high));
    let first = usual_first.copied().unwrap_or(low as u16);
    let last = usual_last.copied().unwrap_or(high as u16);
    PortRange::new(first, last).map(|range| Known::inferred(range, 0.5))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Seed;

    #[test]
    fn twelve_ports_give_away_their_block() {
        for size in [64, 128, 256, 512, 1_024, 2_048, 4_096] {
            let (mut right, draws) = (0, 400);
            for number in 0..draws {
                let mut seed = Seed::from_u64(number);
                let index = seed.below(u64::from(64_512 / size)) as u16;
                let first = ORIGIN + index * size;
                let ports: Vec<_> = (0..12).map(|_| first + seed.below(u64::from(size)) as u16).collect();
                let truth = PortRange { first, last: first + (size - 1) };
                right += u32::from(infer(&ports).is_some_and(|block| block.value == truth));
            }
            assert!(f64::from(right) >= 0.95 * draws as f64, "{size}: {right} of {draws}");
        }
    }

    #[test]
    fn ports_from_everywhere_have_no_block() {
        for number in 0..200 {
            let mut seed = Seed::from_u64(number);
            let ports: Vec<_> = (0..12).map(|_| 1_024 + seed.below(64_512) as u16).collect();
            assert_eq!(infer(&ports), None);
        }
        assert_eq!(infer(&[5_000, 5_001]), None);
        assert_eq!(infer(&[]), None);
    }

    #[test]
    fn few_ports_leave_doubt() {
        let few = infer(&[2_050, 2_080, 2_100]).unwrap();
        let many = infer(&[2_050, 2_080, 2_100, 2_049, 2_051, 2_110, 2_066, 2_088]).unwrap();
        assert_eq!(few.value, many.value);
        assert!(few.confidence < 0.8 && many.confidence > 0.98, "{few:?} {many:?}");
    }

    #[test]
    fn a_range_reaches_to_the_usual_bounds() {
        let ports: Vec<_> = (0..14).map(|index| 36_000 + index * 2_200).collect();
        assert_eq!(range(&ports).unwrap().value, PortRange { first: 35_000, last: 65_535 });
        assert_eq!(range(&[1, 65_535]), None);
        let all = range(&[0, 1, 2, 65_533, 65_534, 65_535]).unwrap().value;
        assert_eq!(all, PortRange { first: 1, last: 65_535 });
    }
}
