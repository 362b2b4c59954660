//! Thins a curve of many points without changing its shape.

use std::iter;

/// Which points to keep so that at most `most` remain, in order: the first, the last, and from each stretch in
/// between the one that forms the largest triangle with its neighbours, so that bends stay ("largest triangle three
/// buckets", Steinarsson 2013). `most` is at least 3.
pub(super) fn thinned(points: &[(f64, f64)], most: usize) -> Vec<usize> {
    if points.len() <= most {
        return (0..points.len()).collect();
    }
    let inner = points.len() - 2;
    let stretches = most - 2;
    let border = |stretch: usize| 1 + inner * stretch / stretches;
    let mut kept = Vec::with_capacity(most);
    kept.push(0);
    for stretch in 0..stretches {
        let here = border(stretch)..border(stretch + 1);
        let next = border(stretch + 1)..border((stretch + 2).min(stretches)).max(border(stretch + 1) + 1);
        let ahead = centre(&points[next]);
        let from = points[kept[stretch]];
        let area = |&i: &usize| triangle(from, points[i], ahead);
        kept.extend(here.max_by(|a, b| area(a).total_cmp(&area(b))));
    }
    kept.extend(iter::once(points.len() - 1));
    kept
}

fn centre(points: &[(f64, f64)]) -> (f64, f64) {
    let (x, y) = points.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0, y + point.1));
    #[expect(clippy::cast_precision_loss, reason = "there are far fewer than 2^52")]
    let count = points.len() as f64;
    (x / count, y / count)
}

/// Twice its area.
fn triangle(a: (f64, f64), b: (f64, f64), c: (f64, f64)) -> f64 {
    ((a.0 - c.0) * (b.1 - a.1) - (a.0 - b.0) * (c.1 - a.1)).abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_points_are_all_kept() {
        assert_eq!(thinned(&[], 3), [0; 0]);
        assert_eq!(thinned(&[(0.0, 0.0), (1.0, 1.0), (2.0, 4.0)], 3), [0, 1, 2]);
    }

    #[test]
    fn as_many_are_kept_as_may_be_and_the_ends_are_among_them() {
        for count in [4_u32, 5, 7, 100, 1_001, 10_000] {
            let points: Vec<_> = (0..count).map(|i| (f64::from(i), f64::from(i * i % 97))).collect();
            for most in [3, 4, 50] {
                let kept = thinned(&points, most);
                assert_eq!(kept.len(), most.min(points.len()), "{count} {most}");
                assert_eq!((kept[0], kept[kept.len() - 1]), (0, points.len() - 1));
                assert!(kept.is_sorted_by(|a, b| a < b), "{kept:?}");
            }
        }
    }

    #[test]
    fn a_bend_stays() {
        // It goes at 10 a step, stands still for a while, and goes on.
        let height = |i: u32| f64::from(i.min(3_000) + i.saturating_sub(7_000)) * 10.0;
        let points: Vec<_> = (0..10_000).map(|i| (f64::from(i), height(i))).collect();
        let kept = thinned(&points, 200);
        // Between the kept points the curve is nowhere off by more than it rises in one stretch of 50 points.
        for pair in kept.windows(2) {
            let ((x0, y0), (x1, y1)) = (points[pair[0]], points[pair[1]]);
            for (x, y) in &points[pair[0]..pair[1]] {
                let drawn = y0 + (y1 - y0) * (x - x0) / (x1 - x0);
                assert!((drawn - y).abs() <= 500.0, "at {x}: {drawn} for {y}");
            }
        }
    }
}
