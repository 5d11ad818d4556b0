; Locks of one word: 0 free, 1 held. Goes before dispatch.ll.
;
; A device's lock is in its state's header, so that the kernel's programs take it
; too (docs/threads.md). Nobody holds two, and nothing that waits for a thread
; of Python's is called under one.

define internal void @take(ptr %word) alwaysinline {
  %pair = cmpxchg ptr %word, i32 0, i32 1 acquire monotonic
  %free = extractvalue { i32, i1 } %pair, 1
  br i1 %free, label %taken, label %contended, !prof !1000

contended:
  call void @wait_and_take(ptr %word)
  br label %taken

taken:
  ret void
}

; Look a bounded number of times, then let others run: the holder may have lost
; its processor.
define internal void @wait_and_take(ptr %word) noinline cold {
entry:
  br label %look

look:
  %looks = phi i32 [ 0, %entry ], [ %more, %held ], [ 0, %patient ], [ %looks, %free ]
  %value = load atomic i32, ptr %word monotonic, align 4
  %is_free = icmp eq i32 %value, 0
  br i1 %is_free, label %free, label %held

free:
  %pair = cmpxchg ptr %word, i32 0, i32 1 acquire monotonic
  %mine = extractvalue { i32, i1 } %pair, 1
  br i1 %mine, label %taken, label %look

held:
  call void @pause()
  %more = add i32 %looks, 1
  %enough = icmp uge i32 %more, $SPINS
  br i1 %enough, label %patient, label %look

patient:
  call void @yield()
  br label %look

taken:
  ret void
}

define internal void @release(ptr %word) alwaysinline {
  store atomic i32 0, ptr %word release, align 4
  ret void
}

; Take a device's lock: its version is odd from here to @let_go.
define internal void @hold(ptr %state) alwaysinline {
  %lock.p = getelementptr %StateHeader, ptr %state, i32 0, i32 $StateHeader.lock
  call void @take(ptr %lock.p)
  call void @turn(ptr %state)
  ; No change of the state is seen before the odd version is.
  fence release
  ret void
}

define internal void @let_go(ptr %state) alwaysinline {
  call void @turn(ptr %state)
  %lock.p = getelementptr %StateHeader, ptr %state, i32 0, i32 $StateHeader.lock
  call void @release(ptr %lock.p)
  ret void
}

define internal void @turn(ptr %state) alwaysinline {
  %version.p = getelementptr %StateHeader, ptr %state, i32 0, i32 $StateHeader.version
  %version = load atomic i32, ptr %version.p monotonic, align 4
  %next = add i32 %version, 1
  store atomic i32 %next, ptr %version.p release, align 4
  ret void
}

; The same for Python, which holds machine.lock already.
define void @devc_hold(ptr %state) {
  call void @hold(ptr %state)
  ret void
}

define void @devc_let_go(ptr %state) {
  call void @let_go(ptr %state)
  ret void
}

; An access that another overtook on its way to the lock takes place when that
; one did: a device's time does not go back.
define internal i64 @arrival(ptr %state, i64 %now) alwaysinline {
  %settled.p = getelementptr %StateHeader, ptr %state, i32 0, i32 $StateHeader.settled
  %settled = load i64, ptr %settled.p
  %at = call i64 @llvm.umax.i64(i64 %settled, i64 %now)
  ret i64 %at
}
