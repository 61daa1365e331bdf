//! Numbers as Go's `%v` writes them.

/// From this exponent on a number is written with one.
const LARGE: i32 = 21;
/// And below this one.
const SMALL: i32 = -4;

/// A number as upstream's messages show it: the shortest digits that are it, with an exponent when it is large or small.
pub fn shown(number: f64) -> String {
    let scientific = format!("{number:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (SMALL..LARGE).contains(&exponent) {
        return format!("{number}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_go_writes_them() {
        for (number, text) in [
            (10.0, "10"),
            (-0.5, "-0.5"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (1.5e-5, "1.5e-05"),
            (0.0001, "0.0001"),
            (f64::from(i32::MAX), "2147483647"),
        ] {
            assert_eq!(shown(number), text);
        }
    }
}
