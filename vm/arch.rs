//! The CPU architectures of guests, and the tools, names and devices that belong to each.
/// A CPU architecture, as Debian names it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Arch {
    /// x86-64, the host's own architecture.
    Amd64,
    /// 64-bit ARM, always emulated.
    Arm64,
    /// 64-bit RISC-V, always emulated.
    Riscv64,
}

impl Arch {
    /// All architectures.
    pub const ALL: [Self; 3] = [Self::Amd64, Self::Arm64, Self::Riscv64];

    /// Returns Debian's name for the architecture.
    pub fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
            Self::Riscv64 => "riscv64",
        }
    }

    /// Returns the flavors of Debian's kernels. If one is a suffix of another, the longer one comes first.
    pub fn flavors(self) -> &'static [&'static str] {
        match self {
            Self::Amd64 => &["cloud-amd64", "rt-amd64", "amd64"],
            Self::Arm64 => &["cloud-arm64", "rt-arm64", "arm64-16k", "arm64"],
            Self::Riscv64 => &["riscv64"],
        }
    }

    /// Returns the architecture whose name the flavor contains.
    pub fn of_flavor(flavor: &str) -> Self {
        Self::ALL.into_iter().find(|arch| flavor.contains(arch.name())).unwrap_or(Self::Amd64)
    }

    /// Returns Rust's target triple.
    pub fn target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => "aarch64-unknown-linux-gnu",
            Self::Riscv64 => "riscv64gc-unknown-linux-gnu",
        }
    }

    /// Returns the architecture's `e_machine` number in ELF files (elf(5)).
    pub fn machine_in_elf(self) -> u16 {
        match self {
            Self::Amd64 => libc::EM_X86_64,
            Self::Arm64 => libc::EM_AARCH64,
            // The libc crate does not define EM_RISCV.
            Self::Riscv64 => 243,
        }
    }

    /// Returns the name of the QEMU program.
    pub fn emulator(self) -> &'static str {
        match self {
            Self::Amd64 => "qemu-system-x86_64",
            Self::Arm64 => "qemu-system-aarch64",
            Self::Riscv64 => "qemu-system-riscv64",
        }
    }

    /// Returns the Debian package that contains the QEMU program.
    pub fn package(self) -> &'static str {
        match self {
            Self::Amd64 => "qemu-system-x86",
            Self::Arm64 => "qemu-system-arm",
            // The package's name differs between releases, but all of them provide this one.
            Self::Riscv64 => "qemu-system-riscv64",
        }
    }

    /// Returns the machine type that QEMU emulates.
    pub fn machine(self) -> &'static str {
        match self {
            Self::Amd64 => "q35",
            Self::Arm64 | Self::Riscv64 => "virt",
        }
    }

    /// Returns the serial device of that machine that is the kernel's console.
    pub fn console(self) -> &'static str {
        match self {
            Self::Amd64 | Self::Riscv64 => "ttyS0",
            Self::Arm64 => "ttyAMA0",
        }
    }

    /// Returns the guest's device for one of the other serial lines, numbered from 0.
    pub fn line(self, number: usize) -> String {
        match self {
            // The first device of this type is the console.
            Self::Amd64 | Self::Riscv64 => format!("/dev/ttyS{}", number + 1),
            Self::Arm64 => format!("/dev/ttyS{number}"),
        }
    }

    /// Returns the path of the bootable image in a kernel build tree.
    pub fn image_in_tree(self) -> &'static str {
        match self {
            Self::Amd64 => "arch/x86/boot/bzImage",
            Self::Arm64 => "arch/arm64/boot/Image",
            Self::Riscv64 => "arch/riscv/boot/Image",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flavor_is_of_one_architecture() {
        for arch in Arch::ALL {
            for flavor in arch.flavors() {
                assert_eq!(Arch::of_flavor(flavor), arch, "{flavor}");
            }
        }
        assert_eq!(Arch::of_flavor("arm64-64k"), Arch::Arm64);
    }
}
