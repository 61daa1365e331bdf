//! A profile becomes programs of the kernel's classic BPF.
//!
//! The compiler knows two actions in a program, a profile has many. The kernel runs all programs of a process and takes
//! the strictest answer, so there is one that lets pass what the profile names and does the default with the rest, and
//! one for each other action, which lets pass all but what that action is for.

use std::collections::BTreeMap;

use hypernetes_guest_protocol::v1;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use syscalls::Sysno;

use super::profile::{Action, Argument, Entry, Operator, Profile};

const EPERM: u32 = nix::libc::EPERM as u32;
/// The kernel's limit for one program.
const MAX_INSTRUCTIONS: usize = 4096;
/// Actions, and so programs, of one profile.
const MAX_PROGRAMS: usize = 16;

/// Conditions of a system call, one of which has to hold; an empty list: always.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

pub(super) fn compile(profile: &Profile, capabilities: &[String]) -> Result<Vec<v1::SeccompFilter>, String> {
    let default = action(profile.default_action, profile.default_errno_ret);
    // seccompiler's actions have no order; their kernel value has.
    let mut by_action: BTreeMap<u32, (SeccompAction, Rules)> = BTreeMap::new();
    let mut named = Rules::new();
    for entry in profile.syscalls.iter().filter(|entry| entry.applies(capabilities)) {
        let wanted = action(entry.action, entry.errno_ret);
        if wanted == default {
            continue;
        }
        add(&mut named, entry)?;
        let (_, rules) = by_action.entry(wanted.clone().into()).or_insert_with(|| (wanted, Rules::new()));
        add(rules, entry)?;
    }
    let mut filters = Vec::new();
    if default != SeccompAction::Allow {
        filters.push(program(named, default, SeccompAction::Allow)?);
    }
    for (wanted, rules) in by_action.into_values().filter(|(wanted, _)| *wanted != SeccompAction::Allow) {
        filters.push(program(rules, SeccompAction::Allow, wanted)?);
    }
    if filters.len() > MAX_PROGRAMS {
        return Err(format!("it has more than {MAX_PROGRAMS} different actions"));
    }
    Ok(filters)
}

fn action(action: Action, errno: Option<u32>) -> SeccompAction {
    match action {
        Action::Allow => SeccompAction::Allow,
        Action::Errno => SeccompAction::Errno(errno.unwrap_or(EPERM)),
        Action::KillThread => SeccompAction::KillThread,
        // Profiles that ask a program are refused when they are read.
        Action::KillProcess | Action::Notify => SeccompAction::KillProcess,
        Action::Log => SeccompAction::Log,
        Action::Trace => SeccompAction::Trace(errno.unwrap_or(EPERM)),
        Action::Trap => SeccompAction::Trap,
    }
}

fn add(rules: &mut Rules, entry: &Entry) -> Result<(), String> {
    let conditions = conditions(&entry.args)?;
    // Names that this architecture or this build does not know cannot be called by their number either way.
    for number in entry.names.iter().filter_map(|name| name.parse::<Sysno>().ok()) {
        let number = i64::from(number.id());
        match rules.get_mut(&number) {
            // Always is weaker than any condition.
            Some(present) if present.is_empty() || conditions.is_empty() => present.clear(),
            Some(present) => present.extend(conditions.iter().cloned()),
            None => drop(rules.insert(number, conditions.clone())),
        }
    }
    Ok(())
}

/// Different arguments have to fit together; of several conditions on one argument any is enough, as in libseccomp's
/// users.
fn conditions(arguments: &[Argument]) -> Result<Vec<SeccompRule>, String> {
    let made = arguments.iter().map(condition).collect::<Result<Vec<_>, _>>()?;
    let repeated = arguments.iter().enumerate().any(|(i, a)| arguments[..i].iter().any(|b| a.index == b.index));
    let groups = if repeated { made.into_iter().map(|one| vec![one]).collect() } else { vec![made] };
    groups
        .into_iter()
        .filter(|group| !group.is_empty())
        .map(|group| SeccompRule::new(group).map_err(|e| e.to_string()))
        .collect()
}

fn condition(argument: &Argument) -> Result<SeccompCondition, String> {
    let (operator, value) = match argument.op {
        Operator::NotEqual => (SeccompCmpOp::Ne, argument.value),
        Operator::Less => (SeccompCmpOp::Lt, argument.value),
        Operator::LessOrEqual => (SeccompCmpOp::Le, argument.value),
        Operator::Equal => (SeccompCmpOp::Eq, argument.value),
        Operator::GreaterOrEqual => (SeccompCmpOp::Ge, argument.value),
        Operator::Greater => (SeccompCmpOp::Gt, argument.value),
        Operator::MaskedEqual => (SeccompCmpOp::MaskedEq(argument.value), argument.value_two),
    };
    SeccompCondition::new(argument.index, SeccompCmpArgLen::Qword, operator, value).map_err(|e| e.to_string())
}

fn program(rules: Rules, otherwise: SeccompAction, matching: SeccompAction) -> Result<v1::SeccompFilter, String> {
    // A VM has its host's architecture.
    let architecture = TargetArch::try_from(std::env::consts::ARCH).map_err(|e| e.to_string())?;
    let filter = SeccompFilter::new(rules, otherwise, matching, architecture).map_err(|e| e.to_string())?;
    let program = BpfProgram::try_from(filter).map_err(|e| e.to_string())?;
    if program.len() > MAX_INSTRUCTIONS {
        return Err(format!("it makes a program of more than {MAX_INSTRUCTIONS} instructions"));
    }
    let mut bytes = Vec::with_capacity(program.len() * 8);
    for instruction in program {
        bytes.extend(instruction.code.to_le_bytes());
        bytes.extend([instruction.jt, instruction.jf]);
        bytes.extend(instruction.k.to_le_bytes());
    }
    Ok(v1::SeccompFilter { program: bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would answer: the strictest answer of all programs.
    fn run(filters: &[v1::SeccompFilter], call: Sysno, arguments: [u64; 6]) -> u32 {
        filters
            .iter()
            .map(|filter| interpret(&filter.program, call, arguments))
            .min_by_key(|r| *r as i32)
            .unwrap_or(ALLOW)
    }

    const ALLOW: u32 = nix::libc::SECCOMP_RET_ALLOW;
    const ERRNO: u32 = nix::libc::SECCOMP_RET_ERRNO;

    /// The part of classic BPF that seccompiler uses.
    fn interpret(program: &[u8], call: Sysno, arguments: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend((call.id() as u32).to_le_bytes());
        // AUDIT_ARCH_X86_64, AUDIT_ARCH_AARCH64
        data.extend(if cfg!(target_arch = "x86_64") { 0xc000_003e_u32 } else { 0xc000_00b7 }.to_le_bytes());
        data.extend(0u64.to_le_bytes());
        arguments.iter().for_each(|argument| data.extend(argument.to_le_bytes()));
        let (mut pc, mut accumulator) = (0, 0u32);
        loop {
            let i = &program[pc * 8..pc * 8 + 8];
            let (code, jt, jf) = (u16::from_le_bytes([i[0], i[1]]), usize::from(i[2]), usize::from(i[3]));
            let k = u32::from_le_bytes(i[4..8].try_into().unwrap());
            pc += 1;
            let jump = |taken: bool| if taken { jt } else { jf };
            match code {
                0x20 => accumulator = u32::from_le_bytes(data[k as usize..k as usize + 4].try_into().unwrap()),
                0x54 => accumulator &= k,
                0x05 => pc += k as usize,
                0x15 => pc += jump(accumulator == k),
                0x25 => pc += jump(accumulator > k),
                0x35 => pc += jump(accumulator >= k),
                0x06 => return k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    fn compiled(text: &str, capabilities: &[&str]) -> Vec<v1::SeccompFilter> {
        let capabilities: Vec<String> = capabilities.iter().map(|c| (*c).to_owned()).collect();
        compile(&Profile::parse(text.as_bytes()).unwrap(), &capabilities).unwrap()
    }

    #[test]
    fn the_default_profile_keeps_what_containers_need_and_no_more() {
        let plain = compiled(super::super::DEFAULT, &[]);
        let none = [0; 6];
        for call in
            [Sysno::read, Sysno::execve, Sysno::futex, Sysno::openat, Sysno::prctl, Sysno::capset, Sysno::seccomp]
        {
            assert_eq!(run(&plain, call, none), ALLOW, "{call}");
        }
        for call in [Sysno::mount, Sysno::unshare, Sysno::kexec_load, Sysno::add_key, Sysno::bpf, Sysno::init_module] {
            assert_eq!(run(&plain, call, none), ERRNO | 1, "{call}");
        }
        let new_namespace = [0x2000_0000, 0, 0, 0, 0, 0];
        assert_eq!(run(&plain, Sysno::clone, none), ALLOW);
        assert_eq!(run(&plain, Sysno::clone, new_namespace), ERRNO | 1);
        // glibc falls back to clone when clone3 is not there, not when it is forbidden.
        assert_eq!(run(&plain, Sysno::clone3, none), ERRNO | 38);
        assert_eq!(run(&plain, Sysno::socket, [2, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(run(&plain, Sysno::socket, [40, 0, 0, 0, 0, 0]), ERRNO | 1);
        assert_eq!(run(&plain, Sysno::personality, [8, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(run(&plain, Sysno::personality, [9, 0, 0, 0, 0, 0]), ERRNO | 1);
        let admin = compiled(super::super::DEFAULT, &["CAP_SYS_ADMIN"]);
        assert_eq!(run(&admin, Sysno::mount, none), ALLOW);
        assert_eq!(run(&admin, Sysno::clone, new_namespace), ALLOW);
        assert_eq!(run(&admin, Sysno::clone3, none), ALLOW);
        // Every name of the table is one.
        for name in Profile::parse(super::super::DEFAULT.as_bytes()).unwrap().syscalls.iter().flat_map(|e| &e.names) {
            let newer =
                ["lsm_", "xattrat", "mseal", "map_shadow_stack", "futex_", "listmount", "statmount", "uretprobe"];
            let known = name.parse::<Sysno>().is_ok() || newer.iter().any(|part| name.contains(part));
            assert!(known || cfg!(not(target_arch = "x86_64")), "{name}");
        }
    }

    #[test]
    fn actions_and_comparisons_mean_what_they_say() {
        let text = r#"{"defaultAction": "SCMP_ACT_KILL_PROCESS", "syscalls": [
            {"names": ["read", "no_such_call"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["write"], "action": "SCMP_ACT_LOG"},
            {"names": ["close"], "action": "SCMP_ACT_ERRNO", "errnoRet": 9,
             "args": [{"index": 0, "value": 4, "op": "SCMP_CMP_GE"}, {"index": 1, "value": 7, "op": "SCMP_CMP_NE"}]},
            {"names": ["lseek"], "action": "SCMP_ACT_ALLOW",
             "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}]}]}"#;
        let filters = compiled(text, &[]);
        let kill = nix::libc::SECCOMP_RET_KILL_PROCESS;
        let args = |a, b| [a, b, 0, 0, 0, 0];
        assert_eq!(run(&filters, Sysno::read, args(0, 0)), ALLOW);
        assert_eq!(run(&filters, Sysno::write, args(0, 0)), nix::libc::SECCOMP_RET_LOG);
        assert_eq!(run(&filters, Sysno::close, args(5, 0)), ERRNO | 9);
        assert_eq!(run(&filters, Sysno::close, args(3, 0)), kill);
        assert_eq!(run(&filters, Sysno::close, args(5, 7)), kill);
        assert_eq!(run(&filters, Sysno::lseek, args(2, 0)), ALLOW);
        assert_eq!(run(&filters, Sysno::lseek, args(3, 0)), kill);
        assert_eq!(run(&filters, Sysno::fork, args(0, 0)), kill);
        let allowing =
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["fork"], "action": "SCMP_ACT_ALLOW"}]}"#;
        assert!(compiled(allowing, &[]).is_empty());
        let beyond = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["fork"], "action": "SCMP_ACT_ERRNO",
            "args": [{"index": 9, "value": 1, "op": "SCMP_CMP_EQ"}]}]}"#;
        assert!(compile(&Profile::parse(beyond.as_bytes()).unwrap(), &[]).is_err());
    }
}
