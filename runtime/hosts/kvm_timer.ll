; The machine's one timer, for the earliest deadline.

; Somebody moved a deadline, or the timer may have fired. The instant at which this
; vCPU is to settle what is due, which has come; else NEVER, and the timer is armed.
; %is_first: `until` is the first vCPU's affair.
define internal i64 @reckon(ptr %vcpu, ptr %vm, ptr %bus, i1 %is_first) {
  %lock.p = getelementptr %Bus, ptr %bus, i32 0, i32 $Bus.timer
  ; To find the earliest deadline and to arm the timer for it is one step: else what
  ; another vCPU found before might be armed after it.
  call void @take(ptr %lock.p)
  %earliest = call i64 @devc_earliest(ptr %bus)
  %until.p = getelementptr %Vm, ptr %vm, i32 0, i32 $Vm.until
  %until = load i64, ptr %until.p
  %target = call i64 @llvm.umin.i64(i64 %earliest, i64 %until)
  %now = call i64 @devc_now(ptr %bus)
  %own_target = select i1 %is_first, i64 %target, i64 %earliest
  %mode.p = getelementptr %Bus, ptr %bus, i32 0, i32 $Bus.clock, i32 $ClockBlock.mode
  %mode = load i32, ptr %mode.p
  %is_running = icmp eq i32 %mode, $CLOCK_RUNNING
  ; So near that the guest would hardly be entered before the timer's signal threw it
  ; out again, which takes many times as long: it is waited for.
  %near = select i1 %is_running, i64 $NEAR, i64 0
  %soon = add i64 %now, %near
  %due = icmp ule i64 %own_target, %soon
  ; Not twice without the guest having run: it must get on, however short its timers.
  %settled.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.settled
  %settled = load i32, ptr %settled.p
  %has_run = icmp eq i32 %settled, 0
  %settle_now = and i1 %due, %has_run
  br i1 %settle_now, label %let_go, label %arm

arm:
  %arm_for = select i1 %is_running, i64 %target, i64 $NEVER
  call void @arm(ptr %vcpu, ptr %vm, ptr %bus, i64 %arm_for, i64 %now)
  call void @release(ptr %lock.p)
  ret i64 $NEVER

let_go:
  call void @release(ptr %lock.p)
  br label %await

await:
  %awaited = phi i64 [ %now, %let_go ], [ %later, %not_yet ]
  %has_come = icmp ule i64 %own_target, %awaited
  br i1 %has_come, label %come, label %not_yet

not_yet:
  call void @pause()
  %later = call i64 @devc_now(ptr %bus)
  br label %await

come:
  ret i64 %awaited
}

; Arm the machine's timer for virtual instant %target (or NEVER), or %grace after
; %now if this vCPU has dealt with deadlines and not run since. Under the timer's
; lock. The timer's signal goes to the first vCPU, whoever arms it.
define internal void @arm(ptr %vcpu, ptr %vm, ptr %bus, i64 %target, i64 %now) {
  %setting = alloca [4 x i64] ; struct itimerspec: no interval, then the instant
  %settled.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.settled
  %settled = load i32, ptr %settled.p
  %has_run = icmp eq i32 %settled, 0
  %grace.p = getelementptr %Vm, ptr %vm, i32 0, i32 $Vm.grace
  %grace = load i64, ptr %grace.p
  %grace.end = add i64 %now, %grace
  %not_before = select i1 %has_run, i64 0, i64 %grace.end
  %when = call i64 @llvm.umax.i64(i64 %target, i64 %not_before)
  %armed.p = getelementptr %Vm, ptr %vm, i32 0, i32 $Vm.armed
  %armed = load atomic i64, ptr %armed.p monotonic, align 8
  %same = icmp eq i64 %when, %armed
  br i1 %same, label %done, label %change

; The timer also fires now and then without a deadline: signals for Python are
; blocked while the guest runs, and looked for then.
change:
  store atomic i64 %when, ptr %armed.p monotonic, align 8
  store [4 x i64] zeroinitializer, ptr %setting
  %never = icmp eq i64 %when, $NEVER
  br i1 %never, label %breathe, label %reckon

breathe:
  %breath.p = getelementptr [4 x i64], ptr %setting, i32 0, i32 3
  store i64 $BREATH, ptr %breath.p
  br label %set

; The host's clock is virtual time less the base.
reckon:
  %base.p = getelementptr %Bus, ptr %bus, i32 0, i32 $Bus.clock, i32 $ClockBlock.base
  %base = load i64, ptr %base.p
  %host.now = sub i64 %now, %base
  %ahead = sub i64 %when, %now
  %clipped = call i64 @llvm.umin.i64(i64 %ahead, i64 $BREATH)
  %host = add i64 %host.now, %clipped
  %seconds = udiv i64 %host, 1000000000
  %nanos = urem i64 %host, 1000000000
  %seconds.p = getelementptr [4 x i64], ptr %setting, i32 0, i32 2
  store i64 %seconds, ptr %seconds.p
  %nanos.p = getelementptr [4 x i64], ptr %setting, i32 0, i32 3
  store i64 %nanos, ptr %nanos.p
  br label %set

set:
  %flags = phi i64 [ 0, %breathe ], [ 1, %reckon ] ; TIMER_ABSTIME
  %timer.p = getelementptr %Vm, ptr %vm, i32 0, i32 $Vm.timer
  %timer = load i32, ptr %timer.p
  %timer.wide = zext i32 %timer to i64
  %setting.at = ptrtoint ptr %setting to i64
  %status = call i64 @syscall(i64 223, i64 %timer.wide, i64 %flags, i64 %setting.at, i64 0) ; timer_settime
  br label %done

done:
  ret void
}
