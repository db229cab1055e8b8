pub mod simd; pub mod product;
pub mod bench {
    use super::simd::*; use super::product::*;
    struct J { rows: usize, units: usize, p: Product, reps: usize }
    impl Job for J { #[inline(always)] unsafe fn run<S: Simd>(self) { for _ in 0..self.reps { unsafe { multiply::<S>(self.rows, self.units, self.p) } } } }
    pub fn go() {
        for isa in Isa::available() { for (units, rows, k) in [(1,8,64),(2,6,64),(2,8,64),(2,12,64),(3,4,64),(3,8,64),(4,6,64),(4,8,64),(4,8,32),(4,16,64),(4,12,64),(4,14,64),(5,8,64),(6,8,64),(4,24,256),(3,24,256),(5,24,256),(6,24,256),(2,24,256)] { for ta in [false,true] {
            if isa.name() == "scalar" { continue; }
            if isa.name() == "avx2" && units > 3 { continue; }
            let a = vec![0.5f32; 64*1024]; let b = vec![0.25f32; 64*1024]; let mut c = vec![0f32; 1<<14];
            let reps = 20000usize * 64 / k;
            let (row, step) = if ta { (1, rows) } else { (k, 1) };
            let al = |p: *const f32| ((p as usize + 63) & !63) as *const f32;
            let p = Product { k, a: al(a.as_ptr()), row, step, b: al(b.as_ptr()), c: al(c.as_ptr()) as *mut f32, stride: units*8, accumulate: false };
            let mut best = f64::MAX;
            for _ in 0..5 { let t = std::time::Instant::now(); unsafe { isa.run(J { rows, units, p, reps }) }; best = best.min(t.elapsed().as_secs_f64()); }
            println!("{} units {units} rows {rows} k {k} ta {ta}: {:.1} GF/s", isa.name(), 2.0 * (rows*units*8*k*reps) as f64 / best / 1e9);
        } } }
    }
}
