//! Every kernel compiles for both generations, without spilling registers to memory.

use slimtau_kernels::gpu::{compile, modules};

#[test]
fn every_kernel_compiles_for_both_targets_without_spills() {
    for target in ["sm_80", "sm_90"] {
        println!("\n{target:<44} registers  spilled bytes");
        let mut spilled = Vec::new();
        for module in modules() {
            let compiled = compile(module, target).unwrap_or_else(|e| panic!("{e}"));
            assert!(compiled.code.starts_with(b"\x7fELF"), "{} is no cubin", module.name);
            assert!(!compiled.kernels.is_empty(), "the log of {} names no kernel", module.name);
            for kernel in compiled.kernels {
                println!("  {:<42} {:>9}  {:>13}", kernel.name, kernel.registers, kernel.spills);
                assert!((8..=255).contains(&kernel.registers), "no registers of {}", kernel.name);
                if kernel.spills > 0 {
                    spilled.push(kernel.name);
                }
            }
        }
        assert!(spilled.is_empty(), "spilling on {target}: {spilled:?}");
    }
}
