//! The processor that a guest has, and what it comes with.
/// A processor architecture, by Debian's name of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Arch {
    /// x86-64: that of the host, too.
    Amd64,
    /// 64-bit ARM, which is emulated.
    Arm64,
    /// 64-bit RISC-V, likewise.
    Riscv64,
}

impl Arch {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Amd64, Self::Arm64, Self::Riscv64];

    /// Debian's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
            Self::Riscv64 => "riscv64",
        }
    }

    /// The flavours of Debian's kernels for it; where one ends as another does, the longer is first.
    pub fn flavours(self) -> &'static [&'static str] {
        match self {
            Self::Amd64 => &["cloud-amd64", "rt-amd64", "amd64"],
            Self::Arm64 => &["cloud-arm64", "rt-arm64", "arm64-16k", "arm64"],
            Self::Riscv64 => &["riscv64"],
        }
    }

    /// The one that is in the name of this flavour.
    pub fn of_flavour(flavour: &str) -> Self {
        Self::ALL.into_iter().find(|arch| flavour.contains(arch.name())).unwrap_or(Self::Amd64)
    }

    /// Rust's name of it, with the system and its C library.
    pub fn target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-gnu",
            Self::Arm64 => "aarch64-unknown-linux-gnu",
            Self::Riscv64 => "riscv64gc-unknown-linux-gnu",
        }
    }

    /// The number of it in programs (`e_machine`, elf(5)).
    pub fn machine_in_elf(self) -> u16 {
        match self {
            Self::Amd64 => libc::EM_X86_64,
            Self::Arm64 => libc::EM_AARCH64,
            // Newer than the list that libc has.
            Self::Riscv64 => 243,
        }
    }

    /// QEMU for it.
    pub fn emulator(self) -> &'static str {
        match self {
            Self::Amd64 => "qemu-system-x86_64",
            Self::Arm64 => "qemu-system-aarch64",
            Self::Riscv64 => "qemu-system-riscv64",
        }
    }

    /// Debian's package with that.
    pub fn package(self) -> &'static str {
        match self {
            Self::Amd64 => "qemu-system-x86",
            Self::Arm64 => "qemu-system-arm",
            // What different releases put into packages of different names; all provide this one.
            Self::Riscv64 => "qemu-system-riscv64",
        }
    }

    /// The machine that QEMU makes.
    pub fn machine(self) -> &'static str {
        match self {
            Self::Amd64 => "q35",
            Self::Arm64 | Self::Riscv64 => "virt",
        }
    }

    /// The serial line of that machine which is the kernel's console.
    pub fn console(self) -> &'static str {
        match self {
            Self::Amd64 | Self::Riscv64 => "ttyS0",
            Self::Arm64 => "ttyAMA0",
        }
    }

    /// The device, in the guest, of one of the other serial lines, which are counted from 0.
    pub fn line(self, number: usize) -> String {
        match self {
            // The first of the kind is the console.
            Self::Amd64 | Self::Riscv64 => format!("/dev/ttyS{}", number + 1),
            Self::Arm64 => format!("/dev/ttyS{number}"),
        }
    }

    /// Where a kernel build tree has the image to boot.
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
    fn every_flavour_is_of_one_architecture() {
        for arch in Arch::ALL {
            for flavour in arch.flavours() {
                assert_eq!(Arch::of_flavour(flavour), arch, "{flavour}");
            }
        }
        assert_eq!(Arch::of_flavour("arm64-64k"), Arch::Arm64);
    }
}
