; Interrupts: vectors into a vCPU, lines and messages into KVM's chips.
;
; The functions on lines may be called by any thread, with no device's lock held.

; --- into a vCPU ---

; Before the guest runs: inject the first queued vector if the vCPU accepts one,
; and ask for an exit when it does if there is more. -errno on failure; 1 if the
; vCPU would take the 8259's interrupt now, which must be acknowledged first.
define internal i64 @deliver(ptr %vcpu, ptr %run) alwaysinline {
  %interrupt = alloca i32 ; struct kvm_interrupt
  %pending.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.pending
  %pending = load i32, ptr %pending.p
  %intr.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.intr
  %intr = load atomic i32, ptr %intr.p monotonic, align 4
  %window.p = getelementptr %RunHead, ptr %run, i32 0, i32 $RunHead.request_interrupt_window
  %waiting = or i32 %pending, %intr
  %none = icmp eq i32 %waiting, 0
  br i1 %none, label %rest, label %ask, !prof !1000

ask:
  %ready.p = getelementptr %RunHead, ptr %run, i32 0, i32 $RunHead.ready_for_interrupt_injection
  %ready = load i8, ptr %ready.p
  %closed = icmp eq i8 %ready, 0
  br i1 %closed, label %rest, label %whose

whose:
  %queued = icmp ne i32 %pending, 0
  br i1 %queued, label %inject, label %acknowledge

acknowledge:
  ret i64 1

inject:
  %head.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.head
  %head = load i32, ptr %head.p
  %vector.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.queue, i32 %head
  %vector = load i8, ptr %vector.p
  %vector.wide = zext i8 %vector to i32
  store i32 %vector.wide, ptr %interrupt
  %interrupt.at = ptrtoint ptr %interrupt to i64
  %status = call i64 @vcpu_ioctl(ptr %vcpu, i64 $KVM_INTERRUPT, i64 %interrupt.at)
  switch i64 %status, label %give_up [
    i64 0, label %injected
    i64 -17, label %rest ; EEXIST: with a local APIC, the one before waits still
  ]

injected:
  %head.next = add i32 %head, 1
  %head.wrapped = and i32 %head.next, 255
  store i32 %head.wrapped, ptr %head.p
  %fewer = sub i32 %pending, 1
  store i32 %fewer, ptr %pending.p
  %injected.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.injected
  call void @add_one(ptr %injected.p)
  %left = or i32 %fewer, %intr
  br label %rest

rest:
  %remain = phi i32 [ 0, %0 ], [ %waiting, %ask ], [ %waiting, %inject ], [ %left, %injected ]
  %some = icmp ne i32 %remain, 0
  %window = zext i1 %some to i8
  store i8 %window, ptr %window.p
  ret i64 0

give_up:
  ret i64 %status
}

; The vCPU takes the 8259's interrupt: run its acknowledge cycle, queue the vector.
; SERVED; ATTENTION or HEAVY, if Python must attend to the 8259 afterwards;
; UNCLAIMED if the cycle is Python's.
define internal i32 @acknowledge(ptr %vcpu, ptr %vm, ptr %bus) {
  %inta.p = getelementptr %Vm, ptr %vm, i32 0, i32 $Vm.inta
  %inta = load ptr, ptr %inta.p
  %none = icmp eq ptr %inta, null
  br i1 %none, label %python, label %cycle

python:
  ret i32 $UNCLAIMED

cycle:
  %write.p = getelementptr %Access, ptr %vcpu, i32 0, i32 $Access.write
  store i32 0, ptr %write.p
  %done.p = getelementptr %Access, ptr %vcpu, i32 0, i32 $Access.done
  store i32 0, ptr %done.p
  %now = call i64 @devc_now(ptr %bus)
  %read = call { i64, i32 } @read_piece(ptr %bus, ptr %vcpu, ptr %inta, i64 %now, i32 0, i32 4)
  %answer = extractvalue { i64, i32 } %read, 0
  %left = extractvalue { i64, i32 } %read, 1
  %vector = trunc i64 %answer to i8
  call void @queue(ptr %vcpu, i8 %vector)
  %calm = icmp eq i32 %left, 0
  br i1 %calm, label %served, label %more

served:
  ret i32 $SERVED

more:
  %outcome = call i32 @conclude(ptr %bus, ptr %vcpu, i32 0, ptr %inta, i64 0, i32 4, i64 0, i32 %left)
  ret i32 %outcome
}

; Put a vector behind those that wait: there is room, since none is there twice.
define internal void @queue(ptr %vcpu, i8 %vector) {
  %head.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.head
  %head = load i32, ptr %head.p
  %pending.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.pending
  %pending = load i32, ptr %pending.p
  %end = add i32 %head, %pending
  %place = and i32 %end, 255
  %place.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.queue, i32 %place
  store i8 %vector, ptr %place.p
  %more = add i32 %pending, 1
  store i32 %more, ptr %pending.p
  ret void
}

define internal void @add_one(ptr %counter) alwaysinline {
  %value = load i64, ptr %counter
  %more = add i64 %value, 1
  store i64 %more, ptr %counter
  ret void
}

; The 8259's INT is at %level: %vcpu is told, out of the guest if another thread
; runs it. It then finds whether it accepts the interrupt.
define void @devc_kvm_intr(ptr %vcpu, i64 %argument, i32 %level, i64 %now) {
  %intr.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.intr
  %before = atomicrmw xchg ptr %intr.p, i32 %level seq_cst
  %high = icmp ugt i32 %level, %before
  br i1 %high, label %who, label %done

who:
  %thread.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.thread
  %thread = load atomic i32, ptr %thread.p monotonic, align 4
  %self = call i64 @syscall(i64 186, i64 0, i64 0, i64 0, i64 0) ; gettid
  %self32 = trunc i64 %self to i32
  %absent = icmp eq i32 %thread, 0
  %ours = icmp eq i32 %thread, %self32
  %no_need = or i1 %absent, %ours
  br i1 %no_need, label %done, label %kick

kick:
  %run.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.run
  %run = load ptr, ptr %run.p
  %immediate.p = getelementptr %RunHead, ptr %run, i32 0, i32 $RunHead.immediate_exit
  store atomic i8 1, ptr %immediate.p seq_cst, align 1
  %vm.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.vm
  %vm = load ptr, ptr %vm.p
  %process.p = getelementptr %Vm, ptr %vm, i32 0, i32 $Vm.process
  %process = load i32, ptr %process.p
  %process.wide = zext i32 %process to i64
  %thread.wide = zext i32 %thread to i64
  %told = call i64 @syscall(i64 234, i64 %process.wide, i64 %thread.wide, i64 $WAKE, i64 0) ; tgkill
  br label %done

done:
  ret void
}

; --- into KVM's chips ---

; A line that leads to a GSI has changed. %argument: the GSI, and from bit 8 on the
; line's number among those on it. They are or-ed, as on a board; the lock is held
; over the call, so that the kernel learns of levels in their order.
define void @devc_kvm_line(ptr %vm, i64 %argument, i32 %level, i64 %now) {
  %request = alloca %IrqLevel
  %gsi = and i64 %argument, 63
  %source.shifted = lshr i64 %argument, 8
  %source = and i64 %source.shifted, 63
  %bit = shl i64 1, %source
  %others = xor i64 %bit, -1
  %high = icmp ne i32 %level, 0
  %own = select i1 %high, i64 %bit, i64 0
  %lock.p = getelementptr %Vm, ptr %vm, i32 0, i32 $Vm.line_lock
  call void @take(ptr %lock.p)
  %sources.p = getelementptr %Vm, ptr %vm, i32 0, i32 $Vm.sources, i64 %gsi
  %before = load i64, ptr %sources.p
  %rest = and i64 %before, %others
  %after = or i64 %rest, %own
  store i64 %after, ptr %sources.p
  %was = icmp ne i64 %before, 0
  %is = icmp ne i64 %after, 0
  %changed = xor i1 %was, %is
  br i1 %changed, label %tell, label %done

tell:
  %irq.p = getelementptr %IrqLevel, ptr %request, i32 0, i32 $IrqLevel.irq
  %gsi32 = trunc i64 %gsi to i32
  store i32 %gsi32, ptr %irq.p
  %level.p = getelementptr %IrqLevel, ptr %request, i32 0, i32 $IrqLevel.level
  %is32 = zext i1 %is to i32
  store i32 %is32, ptr %level.p
  %request.at = ptrtoint ptr %request to i64
  %status = call i64 @vm_ioctl(ptr %vm, i64 $KVM_IRQ_LINE, i64 %request.at)
  br label %done

done:
  call void @release(ptr %lock.p)
  ret void
}

; A message to the local APICs.
define void @devc_kvm_message(ptr %vm, i64 %address, i32 %data) {
  %message = alloca %Msi
  store %Msi zeroinitializer, ptr %message
  %low.p = getelementptr %Msi, ptr %message, i32 0, i32 $Msi.address_lo
  %low = trunc i64 %address to i32
  store i32 %low, ptr %low.p
  %high.p = getelementptr %Msi, ptr %message, i32 0, i32 $Msi.address_hi
  %high.shifted = lshr i64 %address, 32
  %high = trunc i64 %high.shifted to i32
  store i32 %high, ptr %high.p
  %data.p = getelementptr %Msi, ptr %message, i32 0, i32 $Msi.data
  store i32 %data, ptr %data.p
  %message.at = ptrtoint ptr %message to i64
  %status = call i64 @vm_ioctl(ptr %vm, i64 $KVM_SIGNAL_MSI, i64 %message.at)
  ret void
}
