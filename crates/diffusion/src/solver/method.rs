//! Solvers by name: what a command, a file or a checkpoint asks for.

use std::fmt;
use std::str::FromStr;

use super::{
    Consistency, Ddim, Ddpm, Deis, DpmSolver2M, Euler, EulerAncestral, Heun, Lcm, Lms, Pndm,
    SdeDpmSolver2M, Solver, Tcd, UniPc,
};

/// A solver, by the name that the field gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Method {
    /// [`Ddim`], deterministic.
    Ddim,
    /// [`Ddpm`] with the posterior's variance.
    Ddpm,
    /// [`Euler`].
    Euler,
    /// [`EulerAncestral`].
    EulerAncestral,
    /// [`DpmSolver2M`].
    DpmSolver2M,
    /// [`SdeDpmSolver2M`].
    SdeDpmSolver2M,
    /// [`UniPc`] of order 2.
    UniPc,
    /// [`Deis`] of order 2.
    Deis,
    /// [`Lms`].
    Lms,
    /// [`Heun`]: two passes a step, one in the last.
    Heun,
    /// [`Pndm`]: one pass more than steps.
    Pndm,
    /// [`Lcm`], for networks distilled to be sampled so.
    Lcm,
    /// [`Tcd`] with `gamma = 0.3`, for networks distilled to be sampled so.
    Tcd,
    /// [`Consistency`], for networks distilled to be sampled so.
    Consistency,
}

impl Method {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Ddim,
        Self::Ddpm,
        Self::Euler,
        Self::EulerAncestral,
        Self::DpmSolver2M,
        Self::SdeDpmSolver2M,
        Self::UniPc,
        Self::Deis,
        Self::Lms,
        Self::Heun,
        Self::Pndm,
        Self::Lcm,
        Self::Tcd,
        Self::Consistency,
    ];

    /// Its name in commands and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ddim => "ddim",
            Self::Ddpm => "ddpm",
            Self::Euler => "euler",
            Self::EulerAncestral => "euler-a",
            Self::DpmSolver2M => "dpmpp2m",
            Self::SdeDpmSolver2M => "dpmpp2m-sde",
            Self::UniPc => "unipc",
            Self::Deis => "deis",
            Self::Lms => "lms",
            Self::Heun => "heun",
            Self::Pndm => "pndm",
            Self::Lcm => "lcm",
            Self::Tcd => "tcd",
            Self::Consistency => "consistency",
        }
    }

    /// The solver, with its usual settings.
    pub fn solver(self) -> Box<dyn Solver> {
        match self {
            Self::Ddim => Box::new(Ddim::default()),
            Self::Ddpm => Box::new(Ddpm::default()),
            Self::Euler => Box::new(Euler),
            Self::EulerAncestral => Box::new(EulerAncestral),
            Self::DpmSolver2M => Box::new(DpmSolver2M::default()),
            Self::SdeDpmSolver2M => Box::new(SdeDpmSolver2M::default()),
            Self::UniPc => Box::new(UniPc::default()),
            Self::Deis => Box::new(Deis::default()),
            Self::Lms => Box::new(Lms),
            Self::Heun => Box::new(Heun),
            Self::Pndm => Box::new(Pndm),
            Self::Lcm => Box::new(Lcm::default()),
            Self::Tcd => Box::new(Tcd { gamma: 0.3 }),
            Self::Consistency => Box::new(Consistency::default()),
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that no [`Method`] has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no solver is called `{name}`; there are {}", Method::ALL.map(Method::name).join(", "))]
pub struct UnknownMethod {
    /// The name.
    pub name: String,
}

impl FromStr for Method {
    type Err = UnknownMethod;

    fn from_str(name: &str) -> Result<Self, UnknownMethod> {
        let named = Self::ALL.into_iter().find(|method| method.name() == name);
        named.ok_or_else(|| UnknownMethod {
            name: name.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for method in Method::ALL {
            assert_eq!(method.name().parse(), Ok(method));
        }
        let error = "ddmi".parse::<Method>().expect_err("a misspelling");
        assert!(
            error
                .to_string()
                .starts_with("no solver is called `ddmi`; there are ddim, ddpm, ")
        );
    }
}
