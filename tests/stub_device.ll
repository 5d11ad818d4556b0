; A device for tests of the dispatcher and the hosts, to the ABI of docs/abi.md.
;
; 16 bytes: 0..7 a register file of any width; 8 (write) a delay in ns after
; which line 0 rises, 0 for none, again and again if register 7 is not 0;
; 12 (write) line 0's level; 13 leaves for Python's handler 5; 14 (read) the
; number of deadlines settled; the rest reads as 0.

define internal void @attend(ptr %s, i32 %bits) {
  %p = getelementptr %StubState, ptr %s, i32 0, i32 $StubState.attention
  %old = load i32, ptr %p
  %new = or i32 %old, %bits
  store i32 %new, ptr %p
  ret void
}

define internal void @line(ptr %s, i32 %level) {
  %p = getelementptr %StubState, ptr %s, i32 0, i32 $StubState.lines
  store i32 %level, ptr %p
  call void @attend(ptr %s, i32 $LINES)
  ret void
}

define void @stub_settle(ptr %s, i64 %now) {
  %deadline.p = getelementptr %StubState, ptr %s, i32 0, i32 $StubState.deadline
  %deadline = load i64, ptr %deadline.p
  %due = icmp uge i64 %now, %deadline
  br i1 %due, label %fire, label %done

fire:
  %settles.p = getelementptr %StubState, ptr %s, i32 0, i32 $StubState.settles
  %settles = load i64, ptr %settles.p
  %more = add i64 %settles, 1
  store i64 %more, ptr %settles.p
  %period.p = getelementptr %StubState, ptr %s, i32 0, i32 $StubState.period
  %period = load i64, ptr %period.p
  %once = icmp eq i64 %period, 0
  %again = add i64 %now, %period
  %next = select i1 %once, i64 $NEVER, i64 %again
  store i64 %next, ptr %deadline.p
  call void @attend(ptr %s, i32 $DEADLINE)
  call void @line(ptr %s, i32 1)
  br label %done

done:
  ret void
}

define i64 @stub_read(ptr %s, i64 %now, i32 %offset, i32 %width) {
  call void @stub_settle(ptr %s, i64 %now)
  %end = add i32 %offset, %width
  %file = icmp ule i32 %end, 8
  br i1 %file, label %copy, label %special

copy:
  %value = alloca i64
  store i64 0, ptr %value
  %registers = getelementptr %StubState, ptr %s, i32 0, i32 $StubState.registers
  %from = getelementptr i8, ptr %registers, i32 %offset
  %length = zext i32 %width to i64
  call void @llvm.memcpy.p0.p0.i64(ptr %value, ptr %from, i64 %length, i1 false)
  %read = load i64, ptr %value
  ret i64 %read

special:
  switch i32 %offset, label %zero [
    i32 13, label %leave
    i32 14, label %count
  ]

leave:
  call void @leave(ptr %s)
  ret i64 0

count:
  %settles.p = getelementptr %StubState, ptr %s, i32 0, i32 $StubState.settles
  %settles = load i64, ptr %settles.p
  ret i64 %settles

zero:
  ret i64 0
}

define internal void @leave(ptr %s) {
  %p = getelementptr %StubState, ptr %s, i32 0, i32 $StubState.leave
  store i32 5, ptr %p
  call void @attend(ptr %s, i32 $LEAVE)
  ret void
}

define void @stub_write(ptr %s, i64 %now, i32 %offset, i32 %width, i64 %value) {
  call void @stub_settle(ptr %s, i64 %now)
  %end = add i32 %offset, %width
  %file = icmp ule i32 %end, 8
  br i1 %file, label %copy, label %special

copy:
  %held = alloca i64
  store i64 %value, ptr %held
  %registers = getelementptr %StubState, ptr %s, i32 0, i32 $StubState.registers
  %to = getelementptr i8, ptr %registers, i32 %offset
  %length = zext i32 %width to i64
  call void @llvm.memcpy.p0.p0.i64(ptr %to, ptr %held, i64 %length, i1 false)
  ret void

special:
  switch i32 %offset, label %ignore [
    i32 8, label %delay
    i32 12, label %level
    i32 13, label %leave
  ]

delay:
  %repeats.p = getelementptr %StubState, ptr %s, i32 0, i32 $StubState.registers, i32 7
  %repeats = load i8, ptr %repeats.p
  %repeat = icmp ne i8 %repeats, 0
  %period = select i1 %repeat, i64 %value, i64 0
  %period.p = getelementptr %StubState, ptr %s, i32 0, i32 $StubState.period
  store i64 %period, ptr %period.p
  %off = icmp eq i64 %value, 0
  %at = add i64 %now, %value
  %deadline = select i1 %off, i64 $NEVER, i64 %at
  %deadline.p = getelementptr %StubState, ptr %s, i32 0, i32 $StubState.deadline
  store i64 %deadline, ptr %deadline.p
  call void @attend(ptr %s, i32 $DEADLINE)
  ret void

level:
  %bit = trunc i64 %value to i1
  %up = zext i1 %bit to i32
  call void @line(ptr %s, i32 %up)
  ret void

leave:
  call void @leave(ptr %s)
  ret void

ignore:
  ret void
}
