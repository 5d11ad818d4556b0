; System calls and signals (x86-64 Linux).
;
; System calls are inlined: libc's wrappers cost more than a light handler.

; Up to four arguments; the result is negative (-errno) on failure.
define internal i64 @syscall(i64 %number, i64 %a, i64 %b, i64 %c, i64 %d) alwaysinline {
  %result = call i64 asm sideeffect "syscall", "={rax},{rax},{rdi},{rsi},{rdx},{r10},~{rcx},~{r11},~{memory}"(i64 %number, i64 %a, i64 %b, i64 %c, i64 %d)
  ret i64 %result
}

define internal i64 @ioctl(i32 %fd, i64 %request, i64 %argument) alwaysinline {
  %fd.wide = zext i32 %fd to i64
  %result = call i64 @syscall(i64 16, i64 %fd.wide, i64 %request, i64 %argument, i64 0) ; ioctl
  ret i64 %result
}

define internal i64 @vcpu_ioctl(ptr %vcpu, i64 %request, i64 %argument) alwaysinline {
  %fd.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.fd
  %fd = load i32, ptr %fd.p
  %result = call i64 @ioctl(i32 %fd, i64 %request, i64 %argument)
  ret i64 %result
}

define internal i64 @vm_ioctl(ptr %vm, i64 %request, i64 %argument) alwaysinline {
  %fd.p = getelementptr %Vm, ptr %vm, i32 0, i32 $Vm.fd
  %fd = load i32, ptr %fd.p
  %result = call i64 @ioctl(i32 %fd, i64 %request, i64 %argument)
  ret i64 %result
}

; --- signals ---

; The wake signal's handler. The timer's value is where `immediate_exit` is: set
; at any moment, it ends the KVM_RUN that comes next, so no signal is lost between
; a check and the run. (Letting the kernel change the signal mask for each KVM_RUN
; would cost more than serving an access.)
define void @devc_kvm_wake(i32 %number, ptr %info, ptr %context) {
  %code.p = getelementptr i8, ptr %info, i64 8
  %code = load i32, ptr %code.p
  %by_timer = icmp eq i32 %code, -2 ; SI_TIMER
  br i1 %by_timer, label %set, label %done

set:
  %value.p = getelementptr i8, ptr %info, i64 24 ; si_value
  %immediate = load ptr, ptr %value.p
  store atomic i8 1, ptr %immediate monotonic, align 1
  br label %done

done:
  ret void
}

; Take the wake: from here on, it is for the next KVM_RUN.
define internal void @take_wake(ptr %immediate) alwaysinline {
  %was = atomicrmw xchg ptr %immediate, i8 0 seq_cst
  ret void
}

; The host's monotonic clock, ns, whatever virtual time does.
define internal i64 @host_now(ptr %bus) {
  %time = alloca { i64, i64 } ; struct timespec
  %clock = getelementptr %Bus, ptr %bus, i32 0, i32 $Bus.clock
  %gettime.p = getelementptr %ClockBlock, ptr %clock, i32 0, i32 $ClockBlock.gettime
  %gettime = load ptr, ptr %gettime.p
  %source.p = getelementptr %ClockBlock, ptr %clock, i32 0, i32 $ClockBlock.source
  %source = load i32, ptr %source.p
  %status = call i32 %gettime(i32 %source, ptr %time)
  %seconds = load i64, ptr %time
  %nanos.p = getelementptr { i64, i64 }, ptr %time, i32 0, i32 1
  %nanos = load i64, ptr %nanos.p
  %whole = mul i64 %seconds, 1000000000
  %now = add i64 %whole, %nanos
  ret i64 %now
}

; Take the wake signals that are pending, while they are blocked.
define internal void @take_signals(ptr %vm) {
  %none = alloca { i64, i64 }
  store { i64, i64 } zeroinitializer, ptr %none
  %none.at = ptrtoint ptr %none to i64
  %wake.p = getelementptr %Vm, ptr %vm, i32 0, i32 $Vm.wake
  %wake.at = ptrtoint ptr %wake.p to i64
  br label %take

take:
  %signal = call i64 @syscall(i64 128, i64 %wake.at, i64 0, i64 %none.at, i64 8) ; rt_sigtimedwait
  %taken = icmp sgt i64 %signal, 0
  br i1 %taken, label %take, label %done

done:
  ret void
}

; Wait for the wake signal through a signalfd, with no limit (the timer has no
; slack, a timeout has), and for any signal not in the mask at %mask.at.
define internal i64 @ppoll(i64 %poll.at, i64 %mask.at) alwaysinline {
  %result = call i64 asm sideeffect "syscall", "={rax},{rax},{rdi},{rsi},{rdx},{r10},{r8},~{rcx},~{r11},~{memory}"(i64 271, i64 %poll.at, i64 1, i64 0, i64 %mask.at, i64 8)
  ret i64 %result
}

; KVM_RUN, and how long it took, and how long the exit before it.
define internal i64 @run_timed(ptr %vcpu, ptr %bus) noinline {
  %entered = call i64 @host_now(ptr %bus)
  %exited.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.exited
  %exited = load i64, ptr %exited.p
  %first = icmp eq i64 %exited, 0
  %outside = sub i64 %entered, %exited
  %known = select i1 %first, i64 0, i64 %outside
  %host_ns.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.host_ns
  call void @add_to(ptr %host_ns.p, i64 %known)
  %status = call i64 @vcpu_ioctl(ptr %vcpu, i64 $KVM_RUN, i64 0)
  %now = call i64 @host_now(ptr %bus)
  store i64 %now, ptr %exited.p
  %inside = sub i64 %now, %entered
  %guest_ns.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.guest_ns
  call void @add_to(ptr %guest_ns.p, i64 %inside)
  ret i64 %status
}

; @ppoll, and how long it took.
define internal i64 @sleep_timed(ptr %vcpu, ptr %bus, i64 %poll.at, i64 %mask.at) {
  %asleep = call i64 @host_now(ptr %bus)
  %result = call i64 @ppoll(i64 %poll.at, i64 %mask.at)
  %awake = call i64 @host_now(ptr %bus)
  %slept = sub i64 %awake, %asleep
  %asleep_ns.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.asleep_ns
  call void @add_to(ptr %asleep_ns.p, i64 %slept)
  ret i64 %result
}

define internal void @add_to(ptr %total, i64 %more) alwaysinline {
  %value = load i64, ptr %total
  %sum = add i64 %value, %more
  store i64 %sum, ptr %total
  ret void
}
