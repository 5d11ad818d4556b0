; How long accesses take, when somebody wants to know (Bus.timed). Goes before dispatch.ll.

; An access begins.
define internal void @begin_timing(ptr %bus, ptr %access) alwaysinline {
  %timed.p = getelementptr %Bus, ptr %bus, i32 0, i32 $Bus.timed
  %timed = load i32, ptr %timed.p
  %is_timed = icmp ne i32 %timed, 0
  br i1 %is_timed, label %look, label %done, !prof !1001

look:
  call void @note_begin(ptr %bus, ptr %access)
  br label %done

done:
  ret void
}

define internal void @note_begin(ptr %bus, ptr %access) noinline cold {
  %bus.p = getelementptr %Access, ptr %access, i32 0, i32 $Access.bus
  store ptr %bus, ptr %bus.p
  %now = call i64 @clock_now(ptr %bus)
  %began.p = getelementptr %Access, ptr %access, i32 0, i32 $Access.began
  store i64 %now, ptr %began.p
  ret void
}

; It is over, and counted in column %column of %row: its ns are summed up four columns on.
define internal void @end_timing(ptr %access, ptr %row, i32 %column) alwaysinline {
  %began.p = getelementptr %Access, ptr %access, i32 0, i32 $Access.began
  %began = load i64, ptr %began.p
  %is_timed = icmp ne i64 %began, 0
  br i1 %is_timed, label %look, label %done, !prof !1001

look:
  call void @note_end(ptr %access, ptr %row, i32 %column)
  br label %done

done:
  ret void
}

define internal void @note_end(ptr %access, ptr %row, i32 %column) noinline cold {
  %began.p = getelementptr %Access, ptr %access, i32 0, i32 $Access.began
  %began = load i64, ptr %began.p
  store i64 0, ptr %began.p
  %bus.p = getelementptr %Access, ptr %access, i32 0, i32 $Access.bus
  %bus = load ptr, ptr %bus.p
  %now = call i64 @clock_now(ptr %bus)
  %taken = sub i64 %now, %began
  %ns.column = add i32 %column, 4
  %ns.p = getelementptr i64, ptr %row, i32 %ns.column
  %ns = load i64, ptr %ns.p
  %sum = add i64 %ns, %taken
  store i64 %sum, ptr %ns.p
  ret void
}

; The host's monotonic clock, whatever virtual time does.
define internal i64 @clock_now(ptr %bus) {
  %time = alloca { i64, i64 } ; struct timespec
  %gettime.p = getelementptr %Bus, ptr %bus, i32 0, i32 $Bus.clock, i32 $ClockBlock.gettime
  %gettime = load ptr, ptr %gettime.p
  %source.p = getelementptr %Bus, ptr %bus, i32 0, i32 $Bus.clock, i32 $ClockBlock.source
  %source = load i32, ptr %source.p
  %status = call i32 %gettime(i32 %source, ptr %time)
  %seconds = load i64, ptr %time
  %nanos.p = getelementptr { i64, i64 }, ptr %time, i32 0, i32 1
  %nanos = load i64, ptr %nanos.p
  %whole = mul i64 %seconds, 1000000000
  %now = add i64 %whole, %nanos
  ret i64 %now
}
