; A device's calls served by its native handlers, with the record, the lock and the
; answers of the kernel's programs (calls.py, docs/bpf.md), so that either may
; serve a state at any time.

; Take the lock of a state if it is free within %tries looks; its version is odd then.
define i32 @devc_try_hold(ptr %state, i32 %tries) {
  %lock.p = getelementptr %StateHead, ptr %state, i32 0, i32 $StateHead.lock
  br label %look

look:
  %left = phi i32 [ %tries, %0 ], [ %fewer, %wait ]
  %pair = cmpxchg ptr %lock.p, i32 0, i32 1 acquire monotonic
  %taken = extractvalue { i32, i1 } %pair, 1
  br i1 %taken, label %held, label %wait

wait:
  %fewer = sub i32 %left, 1
  %again = icmp sgt i32 %fewer, 0
  br i1 %again, label %look, label %busy

held:
  call void @at_work(ptr %state)
  ret i32 $SERVED

busy:
  ret i32 $BUSY
}

define void @devc_let_go(ptr %state) {
  call void @at_work(ptr %state)
  %lock.p = getelementptr %StateHead, ptr %state, i32 0, i32 $StateHead.lock
  store atomic i32 0, ptr %lock.p release, align 4
  ret void
}

; The holder alone changes the version, so that loading and storing is enough; atomic,
; because others look at it without the lock.
define internal void @at_work(ptr %state) alwaysinline {
  %version.p = getelementptr %StateHead, ptr %state, i32 0, i32 $StateHead.version
  %version = load atomic i32, ptr %version.p monotonic, align 4
  %next = add i32 %version, 1
  store atomic i32 %next, ptr %version.p release, align 4
  ret void
}

; Serve one call; its status, which is in its record too.
define i32 @devc_serve(ptr %handlers, ptr %call) {
  %state.p = getelementptr %Handlers, ptr %handlers, i32 0, i32 $Handlers.state
  %state = load ptr, ptr %state.p
  %status.p = getelementptr %Call, ptr %call, i32 0, i32 $Call.status
  %held = call i32 @devc_try_hold(ptr %state, i32 $TRIES)
  %free = icmp eq i32 %held, $SERVED
  br i1 %free, label %work, label %end

work:
  %served = call i32 @served(ptr %handlers, ptr %state, ptr %call)
  call void @devc_let_go(ptr %state)
  br label %end

end:
  %status = phi i32 [ %held, %0 ], [ %served, %work ]
  store i32 %status, ptr %status.p
  ret i32 %status
}

define internal i32 @served(ptr %handlers, ptr %state, ptr %call) alwaysinline {
  %now.p = getelementptr %Call, ptr %call, i32 0, i32 $Call.now
  %now = load i64, ptr %now.p
  %value.p = getelementptr %Call, ptr %call, i32 0, i32 $Call.value
  %what.p = getelementptr %Call, ptr %call, i32 0, i32 $Call.what
  %what = load i32, ptr %what.p
  switch i32 %what, label %unknown [
    i32 $READ, label %place
    i32 $WRITE, label %place
    i32 $SETTLE, label %settle
    i32 $DEADLINE, label %deadline
  ]

settle:
  %settle.p = getelementptr %Handlers, ptr %handlers, i32 0, i32 $Handlers.settle
  %settle.fn = load ptr, ptr %settle.p
  call void %settle.fn(ptr %state, i64 %now)
  ret i32 $SERVED

deadline:
  %next.p = getelementptr %Handlers, ptr %handlers, i32 0, i32 $Handlers.next
  %next.fn = load ptr, ptr %next.p
  %next = call i64 %next.fn(ptr %state, i64 %now)
  store i64 %next, ptr %value.p
  ret i32 $SERVED

place:
  %region.p = getelementptr %Call, ptr %call, i32 0, i32 $Call.region
  %region = load i32, ptr %region.p
  %regions.p = getelementptr %Handlers, ptr %handlers, i32 0, i32 $Handlers.regions
  %regions = load i32, ptr %regions.p
  %known = icmp ult i32 %region, %regions
  br i1 %known, label %access, label %unknown

access:
  %at = zext i32 %region to i64
  %offset.p = getelementptr %Call, ptr %call, i32 0, i32 $Call.offset
  %offset = load i32, ptr %offset.p
  %width.p = getelementptr %Call, ptr %call, i32 0, i32 $Call.width
  %width = load i32, ptr %width.p
  %is_write = icmp eq i32 %what, $WRITE
  br i1 %is_write, label %write, label %read

read:
  %reads.p = getelementptr %Handlers, ptr %handlers, i32 0, i32 $Handlers.reads
  %reads = load ptr, ptr %reads.p
  %read.p = getelementptr ptr, ptr %reads, i64 %at
  %read.fn = load ptr, ptr %read.p
  %answer = call i64 %read.fn(ptr %state, i64 %now, i32 %offset, i32 %width)
  store i64 %answer, ptr %value.p
  br label %done

write:
  %writes.p = getelementptr %Handlers, ptr %handlers, i32 0, i32 $Handlers.writes
  %writes = load ptr, ptr %writes.p
  %write.p = getelementptr ptr, ptr %writes, i64 %at
  %write.fn = load ptr, ptr %write.p
  %value = load i64, ptr %value.p
  call void %write.fn(ptr %state, i64 %now, i32 %offset, i32 %width, i64 %value)
  br label %done

; What was left to Python has changed nothing. Here ATTENTION_LEAVE stays: whoever called
; natively is in user space, and serves it.
done:
  %attention.p = getelementptr %StateHead, ptr %state, i32 0, i32 $StateHead.attention
  %attention = load i32, ptr %attention.p
  %leaves = and i32 %attention, $ATTENTION_LEAVE
  %left = icmp ne i32 %leaves, 0
  %status = select i1 %left, i32 $USER_SPACE, i32 $SERVED
  ret i32 %status

unknown:
  ret i32 $NO_REGION
}

; Serve %count calls of an array, one behind the other, %rounds times, until one is not
; served: how many were.
define i64 @devc_serve_all(ptr %handlers, ptr %calls, i32 %count, i32 %rounds) {
  br label %round

round:
  %round.number = phi i32 [ 0, %0 ], [ %round.next, %round.end ]
  %before = phi i64 [ 0, %0 ], [ %all, %round.end ]
  %more = icmp ult i32 %round.number, %rounds
  br i1 %more, label %each, label %end

each:
  %number = phi i32 [ 0, %round ], [ %number.next, %fine ]
  %done = phi i64 [ %before, %round ], [ %done.next, %fine ]
  %in = icmp ult i32 %number, %count
  br i1 %in, label %one, label %round.end

one:
  %at = zext i32 %number to i64
  %call = getelementptr %Call, ptr %calls, i64 %at
  %status = call i32 @devc_serve(ptr %handlers, ptr %call)
  %good = icmp eq i32 %status, $SERVED
  br i1 %good, label %fine, label %stopped

fine:
  %number.next = add i32 %number, 1
  %done.next = add i64 %done, 1
  br label %each

round.end:
  %all = phi i64 [ %done, %each ]
  %round.next = add i32 %round.number, 1
  br label %round

stopped:
  ret i64 %done

end:
  ret i64 %before
}
