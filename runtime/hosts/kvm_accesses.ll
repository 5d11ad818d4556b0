; An exit's accesses: between the run page and the dispatcher's record.

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

; --- posted writes ---

; Nothing waits in the kernel's ring. Only the kernel writes `last`, under its lock.
define internal i1 @is_empty(ptr %ring) alwaysinline {
  %first.p = getelementptr %CoalescedRing, ptr %ring, i32 0, i32 $CoalescedRing.first
  %first = load atomic i32, ptr %first.p monotonic, align 4
  %last.p = getelementptr %CoalescedRing, ptr %ring, i32 0, i32 $CoalescedRing.last
  %last = load atomic i32, ptr %last.p acquire, align 4
  %empty = icmp eq i32 %first, %last
  ret i1 %empty
}

; Serve the writes that wait, in their order. A write leaves the ring when it is
; done: so whoever finds the ring empty knows that his own are, whichever vCPU
; took them. False if Python must attend to one first: %vcpu's record has it.
define internal i1 @serve_posted(ptr %vcpu, ptr %vm, ptr %bus, ptr %ring, i64 %status) {
  %status.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.status
  store i64 %status, ptr %status.p
  %lock.p = getelementptr %Vm, ptr %vm, i32 0, i32 $Vm.ring_lock
  call void @take(ptr %lock.p)
  %now = call i64 @devc_now(ptr %bus)
  br label %look

look:
  %empty = call i1 @is_empty(ptr %ring)
  br i1 %empty, label %all, label %take

take:
  %first.p = getelementptr %CoalescedRing, ptr %ring, i32 0, i32 $CoalescedRing.first
  %first = load i32, ptr %first.p
  %known = urem i32 %first, $RING_WRITES
  %write = getelementptr %CoalescedRing, ptr %ring, i32 0, i32 $CoalescedRing.writes, i32 %known
  %address.p = getelementptr %CoalescedWrite, ptr %write, i32 0, i32 $CoalescedWrite.phys_addr
  %address = load i64, ptr %address.p
  %width.p = getelementptr %CoalescedWrite, ptr %write, i32 0, i32 $CoalescedWrite.len
  %width = load i32, ptr %width.p
  %pio.p = getelementptr %CoalescedWrite, ptr %write, i32 0, i32 $CoalescedWrite.pio
  %pio = load i32, ptr %pio.p
  %by_port = icmp ne i32 %pio, 0
  %space = select i1 %by_port, i32 $IO, i32 $MMIO
  %data.p = getelementptr %CoalescedWrite, ptr %write, i32 0, i32 $CoalescedWrite.data
  call void @begin(ptr %vcpu, i64 %now, i32 %space, i64 %address, i32 %width, i32 1, ptr %data.p, i32 1)
  %outcome = call i32 @devc_access(ptr %bus, ptr %vcpu)
  %heavy = icmp uge i32 %outcome, $ATTENTION
  %next = add i32 %known, 1
  %wraps = icmp eq i32 %next, $RING_WRITES
  %next.wrapped = select i1 %wraps, i32 0, i32 %next
  store atomic i32 %next.wrapped, ptr %first.p release, align 4
  br i1 %heavy, label %attend, label %light

light:
  call void @count_posted(ptr %vcpu, ptr %vm, ptr %bus, i64 %address)
  br label %look

attend:
  call void @release(ptr %lock.p)
  %phase.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.phase
  store i32 $PHASE_POSTED, ptr %phase.p
  ret i1 false

all:
  call void @release(ptr %lock.p)
  %left.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.left
  store i32 0, ptr %left.p
  %phase.done.p = getelementptr %Vcpu, ptr %vcpu, i32 0, i32 $Vcpu.phase
  store i32 $PHASE_RUN, ptr %phase.done.p
  ret i1 true
}

; Count a posted write at %address, served by compiled code, for its region. Under the ring's lock.
define internal void @count_posted(ptr %vcpu, ptr %vm, ptr %bus, i64 %address) {
  %number = call i32 @find(ptr %bus, ptr %vcpu, i64 %address)
  %entries.p = getelementptr %Vm, ptr %vm, i32 0, i32 $Vm.posted_entries
  %entries = load i32, ptr %entries.p
  %listed = icmp ult i32 %number, %entries
  br i1 %listed, label %whose, label %done

whose:
  %posted.p = getelementptr %Vm, ptr %vm, i32 0, i32 $Vm.posted
  %posted = load ptr, ptr %posted.p
  %counters.p = getelementptr ptr, ptr %posted, i32 %number
  %counters = load ptr, ptr %counters.p
  %none = icmp eq ptr %counters, null
  br i1 %none, label %done, label %count

count:
  %entry = call ptr @region(ptr %bus, i32 %number)
  %base.p = getelementptr %RegionEntry, ptr %entry, i32 0, i32 $RegionEntry.base
  %base = load i64, ptr %base.p
  %offset = sub i64 %address, %base
  %counted.p = getelementptr %RegionEntry, ptr %entry, i32 0, i32 $RegionEntry.counted
  %counted = load i32, ptr %counted.p
  %last = sub i32 %counted, 1
  %last.wide = zext i32 %last to i64
  %index = call i64 @llvm.umin.i64(i64 %offset, i64 %last.wide)
  %counter.p = getelementptr i64, ptr %counters, i64 %index
  call void @add_one(ptr %counter.p)
  br label %done

done:
  ret void
}
