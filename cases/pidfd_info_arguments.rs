//! PIDFD_GET_INFO: the sizes of its structure, and invalid arguments.

use clone3_conformance::abi::{Flags, InfoMask, PIDFD_INFO_SIZES, PIDFS_IOCTL_MAGIC, PidfdInfo};
use clone3_conformance::case;
use clone3_conformance::check::{self, Context as _, Result};
use clone3_conformance::clone3::Clone3;
use clone3_conformance::kit::mapping::before_the_end;
use clone3_conformance::kit::process::own_pid;
use clone3_conformance::kit::{Held, subject};
use clone3_conformance::pidfd::{Pidfd, almost_info};
use nix::errno::Errno;

/// Fill byte of the buffers, to detect what the kernel leaves untouched.
const POISON: u8 = 0xAA;
/// A size larger than any structure known to the kernel.
const LONGEST: usize = 512;

/// A size that no kernel is going to need soon: what follows is always zero.
const LONGER_THAN_ANY: usize = 256;

/// Returns a poisoned buffer after PIDFD_GET_INFO with a structure of `size` bytes.
fn filled(pidfd: &Pidfd, request: InfoMask, size: usize) -> Result<[u8; LONGEST]> {
    let mut buffer = [POISON; LONGEST];
    buffer[..8].copy_from_slice(&request.bits().to_ne_bytes());
    check::succeeds(format_args!("PIDFD_GET_INFO, size {size}"), pidfd.info_sized(&mut buffer, size))?;
    Ok(buffer)
}

/// Returns the mask at this offset of the structure.
fn mask_at(buffer: &[u8; LONGEST], offset: usize) -> InfoMask {
    let word = buffer[offset..].first_chunk().copied().unwrap_or_default();
    InfoMask::from_bits_retain(u64::from_ne_bytes(word))
}

case! {
    /// PIDFD_GET_INFO takes structures of every size from 64 bytes: a shorter one is filled as far as it goes, a
    /// longer one has zeroes at its end, and nothing behind it is written.
    pidfd_info_sizes: Must, needs [ExitInfo],
    source "include/uapi/linux/pidfd.h PIDFD_INFO_SIZE_VER0 to VER3; copy_struct_to_user()",
}
fn pidfd_info_sizes() -> Result {
    let request = InfoMask::EXIT | InfoMask::SUPPORTED_MASK;
    subject::each(|call| {
        let child = Held::exiting_with(&call, 9)?;
        every_size_agrees(child.pidfd()?, request).context("a live process")?;
        child.let_go()?;
        subject::wait_until_gone(&child)?;
        every_size_agrees(child.pidfd()?, request).context("a reaped process")
    })
}

/// Compares all but the mask: `pidfd_info_mask_ignores_struct_size` checks its bits for fields that do not fit.
fn every_size_agrees(pidfd: &Pidfd, request: InfoMask) -> Result {
    let whole = filled(pidfd, request, LONGEST)?;
    let beyond = &whole[LONGER_THAN_ANY..];
    check::holds(beyond.iter().all(|byte| *byte == 0), format_args!("size {LONGEST}: tail is {beyond:x?}"))?;
    for size in [64, 65, 71, 72, 73, 79, 80, 81, 87, 88, 89, 96, 128] {
        let got = filled(pidfd, request, size)?;
        check::equal(
            format_args!("size {size}: the structure behind its mask"),
            &got[8..size],
            &whole[8..size],
        )?;
        let untouched = got[size..].iter().all(|byte| *byte == POISON);
        check::holds(untouched, format_args!("size {size}: the kernel wrote behind the structure"))?;
    }
    Ok(())
}

case! {
    /// PIDFD_GET_INFO accesses nothing behind the structure, of whatever size and at whatever address: it may be the last in a mapping.
    pidfd_info_at_end_of_mapping: Must, needs [PidfdInfo],
    source "fs/pidfs.c pidfd_info(), which is extended by size; Documentation/process/adding-syscalls.rst (a size argument)",
}
fn pidfd_info_at_end_of_mapping() -> Result {
    let own = Pidfd::open(own_pid())?;
    // The odd sizes give odd addresses.
    for size in PIDFD_INFO_SIZES.into_iter().chain([65, 81, LONGER_THAN_ANY, LONGER_THAN_ANY + 1]) {
        let buffer = before_the_end(size)?;
        buffer[..8].copy_from_slice(&InfoMask::PID.bits().to_ne_bytes());
        let what = format!("PIDFD_GET_INFO with {size} bytes, which are the last of a mapping");
        check::succeeds(&what, own.info_sized(buffer, size))?;
        let pid = buffer[16..].first_chunk().map(|word| i32::from_ne_bytes(*word));
        check::equal(format_args!("pid from {what}"), pid, Some(own_pid()))?;
    }
    Ok(())
}

case! {
    /// A structure of less than 64 bytes, the first size published, is ENOTTY.
    pidfd_info_small_size_enotty: Is, needs [PidfdInfo],
    source "pidfs_ioctl_valid(), extensible_ioctl_valid()", since "6.17",
}
fn pidfd_info_small_size_enotty() -> Result {
    let own = Pidfd::open(own_pid())?;
    filled(&own, InfoMask::empty(), PIDFD_INFO_SIZES[0])?;
    for size in [0, 8, 63] {
        let mut buffer = [POISON; LONGEST];
        let got = own.info_sized(&mut buffer, size);
        check::refused(format_args!("PIDFD_GET_INFO, size {size}"), got, Errno::ENOTTY)?;
        check::holds(buffer == [POISON; LONGEST], format_args!("size {size}: the kernel wrote to it"))?;
    }
    Ok(())
}

case! {
    /// PIDFD_GET_INFO with a null pointer is EINVAL, and with a bad pointer or one to memory that is not writable EFAULT, even if the
    /// process is gone; with another ioctl direction or type, or on a file that is not a pidfd, it is ENOTTY.
    pidfd_info_bad_arguments: Is, needs [PidfdInfo],
    source "pidfd_info(), pidfs_ioctl_valid(); ioctl(2)", since "6.17",
}
fn pidfd_info_bad_arguments() -> Result {
    const READ_WRITE: u32 = 3;
    let own = Pidfd::open(own_pid())?;
    let child = Clone3::fork().with(Flags::PIDFD).spawn(|| 0)?;
    subject::wait_until_gone(&child)?;
    check::succeeds("control: PIDFD_GET_INFO", own.info(InfoMask::EXIT))?;
    for (pidfd, whose) in [(&own, "of this process"), (child.pidfd()?, "of a process that is gone")] {
        let what = format!("PIDFD_GET_INFO in read-only memory, pidfd {whose}");
        check::refused(what, pidfd.info_read_only(), Errno::EFAULT)?;
        let at = |address| format!("PIDFD_GET_INFO({address}), pidfd {whose}");
        check::refused(at("NULL"), pidfd.info_at(0), Errno::EINVAL)?;
        check::refused(at("8"), pidfd.info_at(8), Errno::EFAULT)?;
    }

    check::succeeds("PIDFD_GET_INFO", almost_info(&own, READ_WRITE, PIDFS_IOCTL_MAGIC))?;
    for direction in [0, 1, 2] {
        let got = almost_info(&own, direction, PIDFS_IOCTL_MAGIC);
        check::refused(format_args!("PIDFD_GET_INFO, direction {direction}"), got, Errno::ENOTTY)?;
    }
    let got = almost_info(&own, READ_WRITE, PIDFS_IOCTL_MAGIC - 1);
    check::refused("PIDFD_GET_INFO, type 0xfe", got, Errno::ENOTTY)?;
    let (pipe, _other) = rustix::pipe::pipe()?;
    let got = almost_info(&pipe, READ_WRITE, PIDFS_IOCTL_MAGIC);
    check::refused("PIDFD_GET_INFO on a pipe", got, Errno::ENOTTY)
}

case! {
    /// A field that does not fit in the caller's structure has no bit in the returned mask.
    pidfd_info_mask_ignores_struct_size: Must, needs [CoredumpMask],
    source "include/uapi/linux/pidfd.h (\"If the structure size is too small to contain a field …, the mask will not contain a bit for that field\")",
    known_defect "6.16 to 7.3: a structure of 64 bytes gets the bits of COREDUMP and SUPPORTED_MASK, whose fields do not fit",
}
fn pidfd_info_mask_ignores_struct_size() -> Result {
    let own = Pidfd::open(own_pid())?;
    let newer = InfoMask::COREDUMP | InfoMask::SUPPORTED_MASK;
    let given = |size| -> Result<InfoMask> { Ok(mask_at(&filled(&own, newer, size)?, 0) & newer) };
    let whole = given(size_of::<PidfdInfo>())?;
    check::holds(whole.contains(InfoMask::COREDUMP), format_args!("control: mask {whole} at full size"))?;
    let what = "PIDFD_GET_INFO(COREDUMP|SUPPORTED_MASK) with a structure of 64 bytes: bits of fields that do not fit";
    check::equal_or_defect(what, given(64)?, InfoMask::empty(), whole)
}

case! {
    /// The mask has the bit of a field that the caller's structure has room for, whatever newer fields the structure lacks: of the exit
    /// code with 64 bytes, of core dumps with 72.
    pidfd_info_old_sizes_keep_their_fields: Must, needs [ExitInfo, CoredumpMask],
    source "include/uapi/linux/pidfd.h (\"sizeof first published struct\", and the next)",
}
fn pidfd_info_old_sizes_keep_their_fields() -> Result {
    subject::each(|call| {
        let child = Held::exiting_with(&call, 9)?;
        has_bit(child.pidfd()?, InfoMask::COREDUMP, 72).context("a live process")?;
        child.let_go()?;
        subject::wait_until_gone(&child)?;
        has_bit(child.pidfd()?, InfoMask::EXIT, 64).context("a process that has exited")
    })
}

/// Checks that the requested bits are in the mask with each published size from this one on.
fn has_bit(pidfd: &Pidfd, asked: InfoMask, smallest: usize) -> Result {
    for size in PIDFD_INFO_SIZES.into_iter().filter(|size| *size >= smallest) {
        let given = mask_at(&filled(pidfd, asked, size)?, 0) & asked;
        check::equal(format_args!("size {size}: bits in the mask of those asked for"), given, asked)?;
    }
    Ok(())
}

case! {
    /// The layout of a published size does not change: a structure of 80 bytes, as the header had it before
    /// COREDUMP_CODE, has supported_mask in its last word.
    pidfd_info_supported_mask_stays_put: Must, needs [SupportedMask],
    source "include/uapi/linux/pidfd.h of Linux 6.19 and 7.0, PIDFD_INFO_SIZE_VER2; Documentation/process/adding-syscalls.rst (extensible structures grow at their end)",
    known_defect "7.1 to 7.3: supported_mask moved from offset 72 to 80, and coredump_code took its place: a program built with an older header is told that nothing is supported",
}
fn pidfd_info_supported_mask_stays_put() -> Result {
    let own = Pidfd::open(own_pid())?;
    let word = |size, offset| -> Result<InfoMask> {
        Ok(mask_at(&filled(&own, InfoMask::SUPPORTED_MASK, size)?, offset))
    };
    let (supported, moved) = (word(80, 72)?, word(size_of::<PidfdInfo>(), 80)?);
    check::holds(
        [supported, moved].iter().any(|mask| mask.contains(InfoMask::SUPPORTED_MASK)),
        format_args!("supported_mask is {supported} at offset 72, {moved} at 80"),
    )?;
    let what = "size 80: SUPPORTED_MASK in the mask, and in supported_mask at offset 72";
    // A kernel with the field beyond these 80 bytes may report that by a mask without its bit.
    let there = supported & word(80, 0)? & InfoMask::SUPPORTED_MASK;
    check::equal_or_defect(what, there, InfoMask::SUPPORTED_MASK, InfoMask::empty())
}
