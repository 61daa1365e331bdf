//! What each tenant and each source may take, and when the server works for whom.

pub mod account;
pub mod accounts;
pub mod background;
pub mod budget;
pub mod clock;
pub mod flows;
pub mod held;
pub mod meter;
pub mod pace;
pub mod payer;
pub mod places;
pub mod seats;
pub mod ticket;
