; The KVM exit loop (x86-64 Linux): everything until something heavy.
;
; Goes after dispatch.ll in one module. All context is reached through %vcpu.
; System calls are inlined: libc's wrappers cost more than a light handler.

; Up to four arguments; the result is negative (-errno) on failure.
define internal i64 @syscall(i64 %number, i64 %a, i64 %b, i64 %c, i64 %d) alwaysinline {
  %result = call i64 asm sideeffect "syscall", "={rax},{rax},{rdi},{rsi},{rdx},{r10},~{rcx},~{r11},~{memory}"(i64 %number, i64 %a, i64 %b, i64 %c, i64 %d)
  ret i64 %result
}

define internal i64 @ioctl(ptr %vcpu, i64 %request, i64 %argument) alwaysinline {
  %fd.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.fd
  %fd = load i32, ptr %fd.p
  %fd.wide = zext i32 %fd to i64
  %result = call i64 @syscall(i64 16, i64 %fd.wide, i64 %request, i64 %argument, i64 0) ; ioctl
  ret i64 %result
}

; --- the timer ---

; Arm the timer for virtual instant %target (or NEVER), or %grace after
; %now if deadlines were dealt with and the guest has not run since.
define internal void @arm(ptr %vcpu, ptr %bus, i64 %target, i64 %now) {
  %setting = alloca [4 x i64] ; struct itimerspec: no interval, then the instant
  %settled.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.settled
  %settled = load i32, ptr %settled.p
  %has_run = icmp eq i32 %settled, 0
  %grace.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.grace
  %grace = load i64, ptr %grace.p
  %grace.end = add i64 %now, %grace
  %not_before = select i1 %has_run, i64 0, i64 %grace.end
  %when = call i64 @llvm.umax.i64(i64 %target, i64 %not_before)
  %armed.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.armed
  %armed = load i64, ptr %armed.p
  %same = icmp eq i64 %when, %armed
  br i1 %same, label %done, label %change

; The timer also fires now and then without a deadline: signals for Python are
; blocked while the guest runs, and looked for then.
change:
  store i64 %when, ptr %armed.p
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
  %timer.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.timer
  %timer = load i32, ptr %timer.p
  %timer.wide = zext i32 %timer to i64
  %setting.at = ptrtoint ptr %setting to i64
  %status = call i64 @syscall(i64 223, i64 %timer.wide, i64 %flags, i64 %setting.at, i64 0) ; timer_settime
  br label %done

done:
  ret void
}

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

; Take the wake signals that are pending, while they are blocked.
define internal void @drain(ptr %vcpu) {
  %none = alloca { i64, i64 }
  store { i64, i64 } zeroinitializer, ptr %none
  %none.at = ptrtoint ptr %none to i64
  %wake.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.wake
  %wake.at = ptrtoint ptr %wake.p to i64
  br label %take

take:
  %signal = call i64 @syscall(i64 128, i64 %wake.at, i64 0, i64 %none.at, i64 8) ; rt_sigtimedwait
  %taken = icmp sgt i64 %signal, 0
  br i1 %taken, label %take, label %done

done:
  ret void
}

; --- interrupts ---

; Before the guest runs: inject the first queued vector if the vCPU accepts one,
; and ask for an exit when it does if vectors remain. A negative result is -errno.
define internal i64 @deliver(ptr %vcpu, ptr %run) alwaysinline {
  %interrupt = alloca i32 ; struct kvm_interrupt
  %pending.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.pending
  %pending = load i32, ptr %pending.p
  %window.p = getelementptr %RunHead, ptr %run, i32 0, i32 $RunHead.request_interrupt_window
  %none = icmp eq i32 %pending, 0
  br i1 %none, label %rest, label %ask, !prof !1000

ask:
  %ready.p = getelementptr %RunHead, ptr %run, i32 0, i32 $RunHead.ready_for_interrupt_injection
  %ready = load i8, ptr %ready.p
  %closed = icmp eq i8 %ready, 0
  br i1 %closed, label %rest, label %inject

inject:
  %head.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.head
  %head = load i32, ptr %head.p
  %vector.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.queue, i32 %head
  %vector = load i8, ptr %vector.p
  %vector.wide = zext i8 %vector to i32
  store i32 %vector.wide, ptr %interrupt
  %interrupt.at = ptrtoint ptr %interrupt to i64
  %status = call i64 @ioctl(ptr %vcpu, i64 $KVM_INTERRUPT, i64 %interrupt.at)
  %failed = icmp slt i64 %status, 0
  br i1 %failed, label %give_up, label %injected

injected:
  %head.next = add i32 %head, 1
  %head.wrapped = and i32 %head.next, 255
  store i32 %head.wrapped, ptr %head.p
  %fewer = sub i32 %pending, 1
  store i32 %fewer, ptr %pending.p
  %injected.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.injected
  call void @add_one(ptr %injected.p)
  br label %rest

rest:
  %remain = phi i32 [ 0, %0 ], [ %pending, %ask ], [ %fewer, %injected ]
  %some = icmp ne i32 %remain, 0
  %window = zext i1 %some to i8
  store i8 %window, ptr %window.p
  ret i64 0

give_up:
  ret i64 %status
}

define internal void @add_one(ptr %counter) alwaysinline {
  %value = load i64, ptr %counter
  %more = add i64 %value, 1
  store i64 %more, ptr %counter
  ret void
}

; --- accesses ---

; The %width bytes at %from, little-endian. Port accesses are 1, 2 or 4 bytes
; wide, and string data ends anywhere in its page, so nothing beyond is touched;
; MMIO data always has room for 8 bytes, of which more than %width may be junk.
define internal i64 @load_bytes(ptr %from, i32 %width) alwaysinline {
  switch i32 %width, label %eight [
    i32 1, label %one
    i32 2, label %two
    i32 4, label %four
  ]

one:
  %value8 = load i8, ptr %from
  %from8 = zext i8 %value8 to i64
  ret i64 %from8

two:
  %value16 = load i16, ptr %from, align 1
  %from16 = zext i16 %value16 to i64
  ret i64 %from16

four:
  %value32 = load i32, ptr %from, align 1
  %from32 = zext i32 %value32 to i64
  ret i64 %from32

eight:
  %value64 = load i64, ptr %from, align 1
  ret i64 %value64
}

define internal void @store_bytes(ptr %to, i32 %width, i64 %value) alwaysinline {
  switch i32 %width, label %eight [
    i32 1, label %one
    i32 2, label %two
    i32 4, label %four
  ]

one:
  %value8 = trunc i64 %value to i8
  store i8 %value8, ptr %to
  ret void

two:
  %value16 = trunc i64 %value to i16
  store i16 %value16, ptr %to, align 1
  ret void

four:
  %value32 = trunc i64 %value to i32
  store i32 %value32, ptr %to, align 1
  ret void

eight:
  store i64 %value, ptr %to, align 1
  ret void
}

; An access of the exit under way begins: %count elements at %data.
define internal void @begin(ptr %vcpu, i64 %now, i32 %space, i64 %address, i32 %width, i32 %write, ptr %data, i32 %count) alwaysinline {
  %now.p = getelementptr %Access, ptr %vcpu, i32 0, i32 $Access.now
  store i64 %now, ptr %now.p
  %space.p = getelementptr %Access, ptr %vcpu, i32 0, i32 $Access.space
  store i32 %space, ptr %space.p
  %address.p = getelementptr %Access, ptr %vcpu, i32 0, i32 $Access.address
  store i64 %address, ptr %address.p
  %width.p = getelementptr %Access, ptr %vcpu, i32 0, i32 $Access.width
  store i32 %width, ptr %width.p
  %write.p = getelementptr %Access, ptr %vcpu, i32 0, i32 $Access.write
  store i32 %write, ptr %write.p
  %data.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.data
  store ptr %data, ptr %data.p
  %left.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.left
  store i32 %count, ptr %left.p
  %phase.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.phase
  store i32 $PHASE_ACCESS, ptr %phase.p
  call void @begin_element(ptr %vcpu, ptr %data, i32 %width, i32 %write)
  ret void
}

define internal void @begin_element(ptr %vcpu, ptr %data, i32 %width, i32 %write) alwaysinline {
  %done.p = getelementptr %Access, ptr %vcpu, i32 0, i32 $Access.done
  store i32 0, ptr %done.p
  %claimed.p = getelementptr %Access, ptr %vcpu, i32 0, i32 $Access.claimed
  store i32 0, ptr %claimed.p
  %value.p = getelementptr %Access, ptr %vcpu, i32 0, i32 $Access.value
  %is_write = icmp ne i32 %write, 0
  br i1 %is_write, label %take, label %clear

take:
  %value = call i64 @load_bytes(ptr %data, i32 %width)
  store i64 %value, ptr %value.p
  ret void

clear:
  store i64 0, ptr %value.p
  ret void
}

; Serve what is left of the exit under way. True once all of it is; false if
; Python must attend to the access first. %begun: what became of the present
; element, if it was served already; else -1.
define internal i1 @go_on(ptr %vcpu, ptr %bus, i32 %begun) alwaysinline {
  %data.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.data
  %left.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.left
  %width.p = getelementptr %Access, ptr %vcpu, i32 0, i32 $Access.width
  %width = load i32, ptr %width.p
  %write.p = getelementptr %Access, ptr %vcpu, i32 0, i32 $Access.write
  %write = load i32, ptr %write.p
  %is_write = icmp ne i32 %write, 0
  %is_new = icmp eq i32 %begun, -1
  br i1 %is_new, label %element, label %judge

element:
  %asked = call i32 @devc_access(ptr %bus, ptr %vcpu)
  br label %judge

judge:
  %outcome = phi i32 [ %begun, %0 ], [ %asked, %element ]
  %heavy = icmp uge i32 %outcome, $ATTENTION
  br i1 %heavy, label %attend, label %served, !prof !1001

attend:
  ret i1 false

served:
  %data = load ptr, ptr %data.p
  br i1 %is_write, label %next, label %answer

answer:
  %value.p = getelementptr %Access, ptr %vcpu, i32 0, i32 $Access.value
  %value = load i64, ptr %value.p
  call void @store_bytes(ptr %data, i32 %width, i64 %value)
  br label %next

next:
  %left = load i32, ptr %left.p
  %fewer = sub i32 %left, 1
  store i32 %fewer, ptr %left.p
  %last = icmp eq i32 %fewer, 0
  br i1 %last, label %done, label %advance, !prof !1000

advance:
  %data.next = getelementptr i8, ptr %data, i32 %width
  store ptr %data.next, ptr %data.p
  call void @begin_element(ptr %vcpu, ptr %data.next, i32 %width, i32 %write)
  br label %element

done:
  %phase.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.phase
  store i32 $PHASE_RUN, ptr %phase.p
  ret i1 true
}

; --- the loop ---

; Run the guest until something is heavy. %mask is the thread's signal mask
; outside of the loop; the wake signal is blocked there, and not here. One of the
; LEAVE numbers.
define internal i32 @drive(ptr %vcpu, i64 %mask) {
entry:
  %bus.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.bus
  %bus = load ptr, ptr %bus.p
  %run.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.run
  %run = load ptr, ptr %run.p
  %phase.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.phase
  %settled.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.settled
  %halted.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.halted
  %stop.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.stop
  %until.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.until
  %armed.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.armed
  %error.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.error
  %pending.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.pending
  %runs.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.runs
  %interrupted.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.interrupted
  %moved.p = getelementptr %Bus, ptr %bus, i32 0, i32 $Bus.moved
  %deadline.p = getelementptr %Bus, ptr %bus, i32 0, i32 $Bus.deadline
  %mode.p = getelementptr %Bus, ptr %bus, i32 0, i32 $Bus.clock, i32 $ClockBlock.mode
  %access.now.p = getelementptr %Access, ptr %vcpu, i32 0, i32 $Access.now
  %access.done.p = getelementptr %Access, ptr %vcpu, i32 0, i32 $Access.done
  %left.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.left
  %immediate.p = getelementptr %RunHead, ptr %run, i32 0, i32 $RunHead.immediate_exit
  %reason.p = getelementptr %RunHead, ptr %run, i32 0, i32 $RunHead.exit_reason
  %if_flag.p = getelementptr %RunHead, ptr %run, i32 0, i32 $RunHead.if_flag
  %wake.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.wake
  %wake.at = ptrtoint ptr %wake.p to i64
  %mask.p = alloca i64
  %signals = alloca i64
  %poll = alloca { i32, i16, i16 } ; struct pollfd
  %mask.at = ptrtoint ptr %mask.p to i64
  %signals.at = ptrtoint ptr %signals to i64
  %poll.at = ptrtoint ptr %poll to i64
  store i64 %mask, ptr %mask.p
  ; Python may have moved deadlines and the clock.
  store i32 1, ptr %moved.p
  store i64 0, ptr %armed.p
  %phase = load i32, ptr %phase.p
  switch i32 %phase, label %prepare [
    i32 $PHASE_ACCESS, label %access
    i32 $PHASE_SETTLE, label %settle
  ]

; Anything to do about deadlines before the guest runs?
prepare:
  %moved = load i32, ptr %moved.p
  %still = icmp eq i32 %moved, 0
  br i1 %still, label %go, label %reckon, !prof !1000

reckon:
  %earliest = call i64 @devc_earliest(ptr %bus)
  %until = load i64, ptr %until.p
  %target = call i64 @llvm.umin.i64(i64 %earliest, i64 %until)
  %now = call i64 @devc_now(ptr %bus)
  %due = icmp ule i64 %target, %now
  ; Not twice without the guest having run: it must get on, however short its timers.
  %settled = load i32, ptr %settled.p
  %has_run = icmp eq i32 %settled, 0
  %settle_now = and i1 %due, %has_run
  br i1 %settle_now, label %begin_settle, label %maybe_arm

maybe_arm:
  %mode = load i32, ptr %mode.p
  %is_running = icmp eq i32 %mode, $CLOCK_RUNNING
  %arm_for = select i1 %is_running, i64 %target, i64 $NEVER
  call void @arm(ptr %vcpu, ptr %bus, i64 %arm_for, i64 %now)
  br label %go

begin_settle:
  store i64 %now, ptr %access.now.p
  store i32 0, ptr %access.done.p
  store i32 $PHASE_SETTLE, ptr %phase.p
  br label %settle

settle:
  %outcome = call i32 @devc_settle(ptr %bus, ptr %vcpu)
  %unsettled = icmp uge i32 %outcome, $ATTENTION
  br i1 %unsettled, label %leave_attend, label %which_phase

; Deadlines that came before an access are dealt with first: devices are wired.
which_phase:
  %left = load i32, ptr %left.p
  %access_waits = icmp ne i32 %left, 0
  br i1 %access_waits, label %then_access, label %all_settled

then_access:
  store i32 0, ptr %access.done.p
  store i32 $PHASE_ACCESS, ptr %phase.p
  store i32 1, ptr %moved.p
  br label %access

all_settled:
  store i32 $PHASE_RUN, ptr %phase.p
  store i32 1, ptr %settled.p
  store i32 1, ptr %moved.p
  %settled_at = load i64, ptr %access.now.p
  %last = load i64, ptr %until.p
  %time = icmp uge i64 %settled_at, %last
  br i1 %time, label %time_up, label %prepare

; An exit that was served may not be complete yet: leave through the kernel.
time_up:
  %time.halted = load i32, ptr %halted.p
  %time.awake = icmp eq i32 %time.halted, 0
  br i1 %time.awake, label %stop_for_time, label %leave_time

stop_for_time:
  store atomic i32 $STOP_TIME, ptr %stop.p monotonic, align 4
  br label %go

go:
  %halted = load i32, ptr %halted.p
  %awake = icmp eq i32 %halted, 0
  br i1 %awake, label %enter, label %halt, !prof !1000

enter:
  %delivered = call i64 @deliver(ptr %vcpu, ptr %run)
  %undelivered = icmp slt i64 %delivered, 0
  br i1 %undelivered, label %failed, label %check_stop, !prof !1001

; To stop is to run with immediate_exit set: the kernel then completes the
; instruction whose exit was served last, and returns EINTR.
check_stop:
  %stop = load atomic i32, ptr %stop.p monotonic, align 4
  %stopping = icmp ne i32 %stop, 0
  br i1 %stopping, label %ask_exit, label %guest, !prof !1001

ask_exit:
  store atomic i8 1, ptr %immediate.p monotonic, align 1
  br label %guest

guest:
  store i32 0, ptr %settled.p
  call void @add_one(ptr %runs.p)
  %status = call i64 @ioctl(ptr %vcpu, i64 $KVM_RUN, i64 0)
  %ran = icmp sge i64 %status, 0
  br i1 %ran, label %exited, label %failed, !prof !1000

exited:
  %reason = load i32, ptr %reason.p
  %by_port = icmp eq i32 %reason, $EXIT_IO
  br i1 %by_port, label %io, label %otherwise, !prof !1000

otherwise:
  switch i32 %reason, label %leave_exit [
    i32 $EXIT_MMIO, label %mmio
    i32 $EXIT_HLT, label %begin_halt
    i32 $EXIT_IRQ_WINDOW_OPEN, label %prepare
    i32 $EXIT_INTR, label %interrupted
  ]

io:
  %direction.p = getelementptr %RunHead, ptr %run, i32 0, i32 $RunHead.io_direction
  %direction = load i8, ptr %direction.p
  %io.write = zext i8 %direction to i32 ; KVM_EXIT_IO_IN 0, KVM_EXIT_IO_OUT 1
  %size.p = getelementptr %RunHead, ptr %run, i32 0, i32 $RunHead.io_size
  %size = load i8, ptr %size.p
  %io.width = zext i8 %size to i32
  %port.p = getelementptr %RunHead, ptr %run, i32 0, i32 $RunHead.io_port
  %port = load i16, ptr %port.p
  %io.address = zext i16 %port to i64
  %count.p = getelementptr %RunHead, ptr %run, i32 0, i32 $RunHead.io_count
  %count = load i32, ptr %count.p
  %data_offset.p = getelementptr %RunHead, ptr %run, i32 0, i32 $RunHead.io_data_offset
  %data_offset = load i64, ptr %data_offset.p
  %io.data = getelementptr i8, ptr %run, i64 %data_offset
  %io.now = call i64 @devc_now(ptr %bus)
  %io.deadline = load i64, ptr %deadline.p
  %in_time = icmp ugt i64 %io.deadline, %io.now
  %single = icmp eq i32 %count, 1
  %simple = and i1 %in_time, %single
  br i1 %simple, label %look_up, label %by_record, !prof !1000

; What nearly every exit is: one access, wholly in a region that compiled code
; serves, which then wants nothing more. It needs no record.
look_up:
  %ports.p = getelementptr %Bus, ptr %bus, i32 0, i32 $Bus.ports
  %ports = load ptr, ptr %ports.p
  %number.p = getelementptr i16, ptr %ports, i64 %io.address
  %number16 = load i16, ptr %number.p
  %number = zext i16 %number16 to i32
  %region = call ptr @region(ptr %bus, i32 %number)
  %flags.p = getelementptr %RegionEntry, ptr %region, i32 0, i32 $RegionEntry.flags
  %flags = load i32, ptr %flags.p
  %base.p = getelementptr %RegionEntry, ptr %region, i32 0, i32 $RegionEntry.base
  %base = load i64, ptr %base.p
  %region.size.p = getelementptr %RegionEntry, ptr %region, i32 0, i32 $RegionEntry.size
  %region.size = load i64, ptr %region.size.p
  %offset = sub i64 %io.address, %base
  %room = sub i64 %region.size, %offset
  %width64 = zext i8 %size to i64
  %somebody = icmp ne i32 %number, 0
  %fits = icmp ule i64 %width64, %room
  %splits = and i32 %flags, $REGION_SPLIT
  %whole = icmp eq i32 %splits, 0
  %is_byte = icmp eq i8 %size, 1
  %in_one = or i1 %whole, %is_byte
  %python = and i32 %flags, $REGION_PYTHON
  %compiled = icmp eq i32 %python, 0
  %inside = and i1 %somebody, %fits
  %servable = and i1 %in_one, %compiled
  %swift = and i1 %inside, %servable
  br i1 %swift, label %serve, label %by_record, !prof !1000

serve:
  %state.p = getelementptr %RegionEntry, ptr %region, i32 0, i32 $RegionEntry.state
  %state = load ptr, ptr %state.p
  %offset32 = trunc i64 %offset to i32
  %is_out = icmp ne i8 %direction, 0
  br i1 %is_out, label %out, label %in

in:
  %read.p = getelementptr %RegionEntry, ptr %region, i32 0, i32 $RegionEntry.read
  %read = load ptr, ptr %read.p
  %answer = call i64 %read(ptr %state, i64 %io.now, i32 %offset32, i32 %io.width)
  call void @store_bytes(ptr %io.data, i32 %io.width, i64 %answer)
  br label %served

out:
  %write.p = getelementptr %RegionEntry, ptr %region, i32 0, i32 $RegionEntry.write
  %write = load ptr, ptr %write.p
  %written = call i64 @load_bytes(ptr %io.data, i32 %io.width)
  call void %write(ptr %state, i64 %io.now, i32 %offset32, i32 %io.width, i64 %written)
  br label %served

served:
  %result = phi i64 [ %answer, %in ], [ 0, %out ]
  %attention.p = getelementptr %StateHeader, ptr %state, i32 0, i32 $StateHeader.attention
  %attention = load i32, ptr %attention.p
  %calm = icmp eq i32 %attention, 0
  br i1 %calm, label %light, label %more, !prof !1000

light:
  call void @count(ptr %region, i64 %offset, i32 %io.write, i32 0)
  br label %prepare

; There is more to do: as if the record had been there.
more:
  call void @begin(ptr %vcpu, i64 %io.now, i32 $IO, i64 %io.address, i32 %io.width, i32 %io.write, ptr %io.data, i32 1)
  %claimed.p = getelementptr %Access, ptr %vcpu, i32 0, i32 $Access.claimed
  store i32 1, ptr %claimed.p
  %noted = call i32 @served(ptr %bus, ptr %vcpu, i32 %number, ptr %region, i64 %offset, i32 %io.width, i64 %result)
  br label %access

by_record:
  call void @begin(ptr %vcpu, i64 %io.now, i32 $IO, i64 %io.address, i32 %io.width, i32 %io.write, ptr %io.data, i32 %count)
  br label %arrived

mmio:
  %physical.p = getelementptr %RunMmio, ptr %run, i32 0, i32 $RunMmio.phys_addr
  %physical = load i64, ptr %physical.p
  %length.p = getelementptr %RunMmio, ptr %run, i32 0, i32 $RunMmio.len
  %length = load i32, ptr %length.p
  %is_write.p = getelementptr %RunMmio, ptr %run, i32 0, i32 $RunMmio.is_write
  %is_write = load i8, ptr %is_write.p
  %mmio.write = zext i8 %is_write to i32
  %mmio.data = getelementptr %RunMmio, ptr %run, i32 0, i32 $RunMmio.data
  %mmio.now = call i64 @devc_now(ptr %bus)
  call void @begin(ptr %vcpu, i64 %mmio.now, i32 $MMIO, i64 %physical, i32 %length, i32 %mmio.write, ptr %mmio.data, i32 1)
  br label %arrived

arrived:
  %deadline = load i64, ptr %deadline.p
  %arrival = load i64, ptr %access.now.p
  %overtaken = icmp ule i64 %deadline, %arrival
  br i1 %overtaken, label %settle_first, label %access, !prof !1001

settle_first:
  store i32 $PHASE_SETTLE, ptr %phase.p
  br label %settle

access:
  %begun = phi i32 [ -1, %entry ], [ -1, %then_access ], [ -1, %arrived ], [ %noted, %more ]
  %complete = call i1 @go_on(ptr %vcpu, ptr %bus, i32 %begun)
  br i1 %complete, label %prepare, label %leave_attend, !prof !1000

failed:
  %negative = phi i64 [ %status, %guest ], [ %delivered, %enter ]
  switch i64 %negative, label %leave_error [
    i64 -4, label %interrupted ; EINTR
    i64 -11, label %prepare ; EAGAIN
  ]

; A signal: the timer's or `stop`'s, taken here; or one for Python.
interrupted:
  store atomic i8 0, ptr %immediate.p monotonic, align 1
  call void @add_one(ptr %interrupted.p)
  br label %woken

woken:
  %stop_now = load atomic i32, ptr %stop.p monotonic, align 4
  %stopped = icmp ne i32 %stop_now, 0
  br i1 %stopped, label %which_stop, label %others

which_stop:
  store atomic i32 0, ptr %stop.p monotonic, align 4
  %for_time = icmp eq i32 %stop_now, $STOP_TIME
  br i1 %for_time, label %leave_time, label %leave_stopped

others:
  %asked = call i64 @syscall(i64 127, i64 %signals.at, i64 8, i64 0, i64 0) ; rt_sigpending
  %waiting = load i64, ptr %signals
  %blocked_outside = xor i64 %mask, -1
  %for_python = and i64 %waiting, %blocked_outside
  %any = icmp ne i64 %for_python, 0
  br i1 %any, label %leave_signal, label %rearm

; A halted guest had its grace asleep: a deadline that brought it no interrupt must
; not keep the next from being settled.
rearm:
  store i32 0, ptr %settled.p
  store i64 0, ptr %armed.p
  store i32 1, ptr %moved.p
  br label %prepare

begin_halt:
  store i32 1, ptr %halted.p
  ; The clock is looked at again, since the timer may not be armed for %until.
  store i32 1, ptr %moved.p
  br label %prepare

; The guest waits. An interrupt it accepts wakes it; else sleep until a deadline
; or a signal, if there is a deadline to wait for.
halt:
  %if_flag = load i8, ptr %if_flag.p
  %accepts = icmp ne i8 %if_flag, 0
  %pending = load i32, ptr %pending.p
  %queued = icmp ne i32 %pending, 0
  %wakes = and i1 %accepts, %queued
  br i1 %wakes, label %wake_up, label %asleep

wake_up:
  store i32 0, ptr %halted.p
  br label %enter

asleep:
  %halt_stop = load atomic i32, ptr %stop.p monotonic, align 4
  %halt_stopped = icmp ne i32 %halt_stop, 0
  br i1 %halt_stopped, label %woken, label %hope

; Nothing to come, or a guest that is not listening.
hope:
  %armed = load i64, ptr %armed.p
  %never = icmp eq i64 %armed, $NEVER
  %deaf = xor i1 %accepts, true
  %hopeless = or i1 %never, %deaf
  br i1 %hopeless, label %leave_halted, label %sleep

; The wake signal is held back, so that it ends the sleep even if it comes before.
sleep:
  %held = call i64 @syscall(i64 14, i64 0, i64 %wake.at, i64 0, i64 8) ; rt_sigprocmask, SIG_BLOCK
  %came = load atomic i8, ptr %immediate.p monotonic, align 1
  %rang = icmp ne i8 %came, 0
  br i1 %rang, label %slept, label %doze

doze:
  %signal_fd.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.signal_fd
  %signal_fd = load i32, ptr %signal_fd.p
  store i32 %signal_fd, ptr %poll
  %events.p = getelementptr { i32, i16, i16 }, ptr %poll, i32 0, i32 1
  store i16 1, ptr %events.p ; POLLIN
  %polled = call i64 @ppoll(i64 %poll.at, i64 %mask.at)
  %signalled = icmp eq i64 %polled, -4
  br i1 %signalled, label %leave_signal, label %rung

rung:
  call void @drain(ptr %vcpu)
  br label %slept

slept:
  store atomic i8 0, ptr %immediate.p monotonic, align 1
  %freed = call i64 @syscall(i64 14, i64 1, i64 %wake.at, i64 0, i64 8) ; rt_sigprocmask, SIG_UNBLOCK
  br label %woken

leave_attend:
  ret i32 $LEAVE_ATTEND

leave_signal:
  ret i32 $LEAVE_SIGNAL

leave_stopped:
  ret i32 $LEAVE_STOPPED

leave_time:
  ret i32 $LEAVE_TIME

leave_halted:
  ret i32 $LEAVE_HALTED

leave_exit:
  ret i32 $LEAVE_EXIT

leave_error:
  %positive = sub i64 0, %negative
  %errno = trunc i64 %positive to i32
  store i32 %errno, ptr %error.p
  ret i32 $LEAVE_ERROR
}

; Wait for the wake signal through a signalfd, with no limit (the timer has no
; slack, a timeout has), and for any signal not in the mask at %mask.at.
define internal i64 @ppoll(i64 %poll.at, i64 %mask.at) alwaysinline {
  %result = call i64 asm sideeffect "syscall", "={rax},{rax},{rdi},{rsi},{rdx},{r10},{r8},~{rcx},~{r11},~{memory}"(i64 271, i64 %poll.at, i64 1, i64 0, i64 %mask.at, i64 8)
  ret i64 %result
}

; Run the guest; a LEAVE number. Meanwhile all signals are blocked but the wake
; signal and those of faults. The wake signal stays blocked afterwards.
define i32 @devc_kvm_loop(ptr %vcpu) {
  %blocked.p = alloca i64
  %old.p = alloca i64
  %wake.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.wake
  %wake = load i64, ptr %wake.p
  %not_wake = xor i64 %wake, -1
  ; Not SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV (4, 5, 7, 8, 11; signal n is bit n-1).
  %blocked = and i64 %not_wake, -1241
  store i64 %blocked, ptr %blocked.p
  %blocked.at = ptrtoint ptr %blocked.p to i64
  %old.at = ptrtoint ptr %old.p to i64
  %block = call i64 @syscall(i64 14, i64 2, i64 %blocked.at, i64 %old.at, i64 8) ; rt_sigprocmask, SIG_SETMASK
  %old = load i64, ptr %old.p
  %outside = or i64 %old, %wake
  store i64 %outside, ptr %old.p
  %leave = call i32 @drive(ptr %vcpu, i64 %outside)
  %restore = call i64 @syscall(i64 14, i64 2, i64 %old.at, i64 0, i64 8)
  ret i32 %leave
}

declare i64 @llvm.umax.i64(i64, i64)
