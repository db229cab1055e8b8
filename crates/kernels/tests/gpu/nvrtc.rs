//! Every kernel compiles for both generations, without spilling registers to memory.

use slimtau_kernels::gpu::{compile, load_or_compile, modules};
use std::fs;

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

/// The second time the code comes from the folder, unless the file there is damaged; a folder that cannot be made is none.
#[test]
fn nvrtc_compiles_once() {
    let folder = std::env::temp_dir().join(format!("slimtau-nvrtc-{}", std::process::id()));
    let module = modules().iter().find(|m| m.name == "rows.cu").expect("a small module");
    let get = || load_or_compile(Some(&folder), module, "sm_90").unwrap();
    let code = get();
    assert!(code.starts_with(b"\x7fELF"));
    let files: Vec<_> = fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
    let [file] = &files[..] else { panic!("{} files", files.len()) };
    let (written, bytes) =
        (fs::metadata(file).unwrap().modified().unwrap(), fs::read(file).unwrap());
    assert_eq!(get(), code);
    assert_eq!(fs::metadata(file).unwrap().modified().unwrap(), written, "compiled again");

    fs::write(file, &bytes[..bytes.len() / 2]).unwrap();
    assert_eq!(get(), code);
    assert_eq!(fs::read(file).unwrap(), bytes, "the damaged file was replaced");
    // Another architecture is another file.
    assert_ne!(load_or_compile(Some(&folder), module, "sm_80").unwrap(), code);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);

    let no_folder = file.join("below-a-file");
    assert_eq!(load_or_compile(Some(&no_folder), module, "sm_90").unwrap(), code);
    assert_eq!(load_or_compile(None, module, "sm_90").unwrap(), code);
    fs::remove_dir_all(&folder).unwrap();
}
