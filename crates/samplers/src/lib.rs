//! Noise schedules and samplers over a denoiser closure.
