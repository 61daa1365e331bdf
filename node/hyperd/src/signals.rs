//! Signals by their names: an image's `STOPSIGNAL`, and CRI's enumeration.

use k8s_cri::v1 as cri;
use nix::libc;

/// The first real-time signal that programs may use; C libraries keep two for themselves.
const RTMIN: u32 = 34;
const RTMAX: u32 = 64;

/// Number of a signal by its name or number; SIGTERM for what is not known.
pub(crate) fn number(name: &str) -> u32 {
    let name = name.trim().to_ascii_uppercase();
    if let Ok(number @ 1..=RTMAX) = name.parse::<u32>() {
        return number;
    }
    let short = name.strip_prefix("SIG").unwrap_or(&name);
    if let Some(number) = real_time(short) {
        return number;
    }
    // Other names of the same, which nix does not know.
    let short = match short {
        "CLD" => "CHLD",
        "IOT" => "ABRT",
        "POLL" => "IO",
        other => other,
    };
    format!("SIG{short}").parse::<nix::sys::signal::Signal>().map_or(libc::SIGTERM, |s| s as i32).unsigned_abs()
}

/// `RTMIN`, `RTMIN+3`, `RTMAX-1`; in CRI's spelling `RTMINPLUS3`, `RTMAXMINUS1`.
fn real_time(name: &str) -> Option<u32> {
    let offset = |rest: &str, sign: char, word: &str| match rest {
        "" => Some(0),
        _ => rest.strip_prefix(sign).or_else(|| rest.strip_prefix(word))?.parse::<u32>().ok(),
    };
    let number = if let Some(rest) = name.strip_prefix("RTMIN") {
        RTMIN.checked_add(offset(rest, '+', "PLUS")?)?
    } else {
        RTMAX.checked_sub(offset(name.strip_prefix("RTMAX")?, '-', "MINUS")?)?
    };
    (RTMIN..=RTMAX).contains(&number).then_some(number)
}

/// The signal that ends a container: its configuration's, else its image's, else SIGTERM.
pub(crate) fn stop(configured: cri::Signal, of_image: &str) -> u32 {
    match configured {
        cri::Signal::RuntimeDefault => number(of_image),
        signal => number(signal.as_str_name()),
    }
}

/// CRI's name of a signal.
pub(crate) fn cri(wanted: u32) -> cri::Signal {
    // Later ones are other names of earlier ones, or as good.
    let all = (1..=65).filter_map(|value| cri::Signal::try_from(value).ok());
    all.into_iter().find(|signal| number(signal.as_str_name()) == wanted).unwrap_or(cri::Signal::RuntimeDefault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (name, expected) in [
            ("SIGQUIT", 3),
            ("int", 2),
            ("9", 9),
            ("", 15),
            ("65", 15),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("SIGRTMIN", 34),
            ("SIGRTMIN+99", 15),
            ("nonsense", 15),
        ] {
            assert_eq!(number(name), expected, "{name}");
        }
        assert_eq!(stop(cri::Signal::RuntimeDefault, "SIGQUIT"), 3);
        assert_eq!(stop(cri::Signal::Sigrtminplus3, "SIGQUIT"), 37);
        assert_eq!(stop(cri::Signal::Sigusr1, ""), 10);
        assert_eq!(cri(10), cri::Signal::Sigusr1);
        assert_eq!(cri(15), cri::Signal::Sigterm);
        assert_eq!(cri(37), cri::Signal::Sigrtminplus3);
        assert_eq!(cri(17), cri::Signal::Sigchld);
    }
}
