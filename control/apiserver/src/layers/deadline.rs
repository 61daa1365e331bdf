//! No request is worked on for ever: what is not long-running has a minute, or as long as its client wants it to have.

use std::time::Duration;

use hypernetes_api::{ApiError, Reason, error::Details};

use super::request_info::Incoming;

/// Upstream's `--request-timeout`.
const MOST: Duration = Duration::from_secs(60);

/// Does the work of a request. What a write has begun may come to be all the same, as upstream's may.
///
/// # Errors
/// `BadRequest` for a `timeout` that is none, `Timeout` when there is no answer in time; else those of the work.
pub async fn within<T>(request: &Incoming, work: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
    if request.info.is_long_running() {
        return work.await;
    }
    let limit = limit(request.info.query.get("timeout"))?;
    tokio::time::timeout_at(request.since + limit, work).await.unwrap_or_else(|_| {
        let message = "Timeout: request did not complete within the allotted timeout";
        Err(ApiError::new(Reason::Timeout, message).with_details(Details::default()))
    })
}

/// How long a request with such a `timeout` may take. None, nothing, and what is longer than the server's own are the server's.
fn limit(text: &str) -> Result<Duration, ApiError> {
    if text.is_empty() {
        return Ok(MOST);
    }
    let refused = |why| ApiError::bad_request(format!("invalid timeout specified in the request URL - time: {why}"));
    let wanted = nanoseconds(text).map_err(refused)?;
    Ok(match u64::try_from(wanted) {
        Ok(wanted) if wanted > 0 => Duration::from_nanos(wanted).min(MOST),
        _ => MOST,
    })
}

/// A duration as Go writes it: `1m30s`, `1.5h`, `-2ms`, `0`.
fn nanoseconds(text: &str) -> Result<i64, String> {
    let invalid = || format!("invalid duration {text:?}");
    let negative = text.starts_with('-');
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return Ok(0);
    }
    let mut sum = 0.0;
    loop {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (digits, tail) = rest.split_at(number);
        let amount: f64 = digits.parse().map_err(|_| invalid())?;
        let unit = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let scale = match unit {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            "" => return Err(format!("missing unit in duration {text:?}")),
            unit => return Err(format!("unknown unit {unit:?} in duration {text:?}")),
        };
        sum += amount * scale;
        rest = tail;
        if rest.is_empty() {
            break;
        }
    }
    if sum > i64::MAX as f64 {
        return Err(invalid());
    }
    Ok(if negative { -(sum as i64) } else { sum as i64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_may_have_less_time_and_not_more() {
        let of = |text: &str| limit(text).map(|limit| limit.as_millis()).map_err(|error| error.message);
        for (text, expected) in [
            ("", 60_000),
            ("0", 60_000),
            ("0s", 60_000),
            ("32s", 32_000),
            ("1m", 60_000),
            ("2h45m", 60_000),
            ("1.5s250ms", 1750),
            (".5s", 500),
            ("-1s", 60_000),
        ] {
            assert_eq!(of(text), Ok(expected), "{text}");
        }
        let invalid = "invalid timeout specified in the request URL - time: ";
        for (text, why) in [
            ("abc", "invalid duration \"abc\""),
            ("-", "invalid duration \"-\""),
            (".s", "invalid duration \".s\""),
            ("5", "missing unit in duration \"5\""),
            ("5x", "unknown unit \"x\" in duration \"5x\""),
            ("1s 2s", "unknown unit \"s \" in duration \"1s 2s\""),
            ("99999999999999999999h", "invalid duration \"99999999999999999999h\""),
        ] {
            assert_eq!(of(text), Err(format!("{invalid}{why}")), "{text}");
        }
    }
}
