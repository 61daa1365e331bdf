//! Versions of the CNI specification.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A version that we speak, the newest last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) enum Version {
    #[serde(rename = "0.3.0")]
    V0_3_0,
    #[serde(rename = "0.3.1")]
    V0_3_1,
    #[serde(rename = "0.4.0")]
    V0_4_0,
    #[serde(rename = "1.0.0")]
    V1_0_0,
    #[serde(rename = "1.1.0")]
    V1_1_0,
}

impl Version {
    pub(crate) const ALL: [Self; 5] = [Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    /// CHECK, and the result of ADD as an input of DEL.
    pub(crate) fn has_check(self) -> bool {
        self >= Self::V0_4_0
    }

    /// GC and STATUS.
    pub(crate) fn has_gc_and_status(self) -> bool {
        self >= Self::V1_1_0
    }

    fn text(self) -> &'static str {
        match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(self.text())
    }
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|version| version.text() == text).ok_or_else(|| {
            let text: String = text.chars().take(20).collect();
            format!("version {text:?} of CNI is not spoken here: use one of 0.3.0, 0.3.1, 0.4.0, 1.0.0 and 1.1.0")
        })
    }
}
